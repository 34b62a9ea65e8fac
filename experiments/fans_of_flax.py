"""The fans that flax's default initializer reads off the shape, beside the true ones, on flax's own layers.

    python -m experiments.fans_of_flax [--write docs/auditing.md]

For each layer: the true fan-in from `jinit.audit`, the fan that `lecun_normal`, flax's default, takes from
the shape that the layer hands it, and the variance of the outputs for standard normal inputs, drawn by
`lecun_normal` and drawn with variance 1/fan-in. 1 is what both set out to give. `--write` puts the table
between the marks in that file.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import jinit

DRAWS = 32
TEXT, IMAGE = (4, 16, 128), (4, 24, 24, 32)
CIRCULAR = {"padding": "CIRCULAR"}

Make = Callable[[Any], Any]

LINEN: dict[str, tuple[Make, tuple[int, ...]]] = {
    "Dense(256)": (lambda k: nn.Dense(256, kernel_init=k), TEXT),
    "DenseGeneral((8, 16))": (lambda k: nn.DenseGeneral((8, 16), kernel_init=k), TEXT),
    "DenseGeneral(64, axis=(-2, -1))": (
        lambda k: nn.DenseGeneral(64, axis=(-2, -1), kernel_init=k), (64, 8, 16)
    ),
    "DenseGeneral(64, batch_dims=(0,))": (
        lambda k: nn.DenseGeneral(64, batch_dims=(0,), kernel_init=k), (16, 64, 128)
    ),
    'Einsum((128, 8, 16), "btd,dhk->bthk")': (
        lambda k: nn.Einsum((128, 8, 16), "btd,dhk->bthk", kernel_init=k), TEXT
    ),
    'Einsum((8, 16, 64), "bthk,hkd->btd")': (
        lambda k: nn.Einsum((8, 16, 64), "bthk,hkd->btd", kernel_init=k), (4, 16, 8, 16)
    ),
    'Einsum((8, 128, 64), "etd,edf->etf")': (
        lambda k: nn.Einsum((8, 128, 64), "etd,edf->etf", use_bias=False, kernel_init=k), (8, 16, 128)
    ),
    "Conv(64, (3, 3))": (lambda k: nn.Conv(64, (3, 3), **CIRCULAR, kernel_init=k), IMAGE),
    "Conv(64, (3, 3), strides=2)": (lambda k: nn.Conv(64, (3, 3), 2, **CIRCULAR, kernel_init=k), IMAGE),
    "Conv(64, (3, 3), feature_group_count=8)": (
        lambda k: nn.Conv(64, (3, 3), feature_group_count=8, **CIRCULAR, kernel_init=k), IMAGE
    ),
    "Conv(32, (3, 3), feature_group_count=32)": (
        lambda k: nn.Conv(32, (3, 3), feature_group_count=32, **CIRCULAR, kernel_init=k), IMAGE
    ),
    "ConvTranspose(64, (4, 4))": (
        lambda k: nn.ConvTranspose(64, (4, 4), **CIRCULAR, kernel_init=k), IMAGE
    ),
    "ConvTranspose(64, (4, 4), strides=(2, 2))": (
        lambda k: nn.ConvTranspose(64, (4, 4), (2, 2), **CIRCULAR, kernel_init=k), IMAGE
    ),
    "ConvTranspose(64, (3, 3), strides=(3, 3))": (
        lambda k: nn.ConvTranspose(64, (3, 3), (3, 3), **CIRCULAR, kernel_init=k), IMAGE
    ),
    "ConvTranspose(8, (3, 3), transpose_kernel=True)": (
        lambda k: nn.ConvTranspose(8, (3, 3), transpose_kernel=True, **CIRCULAR, kernel_init=k), IMAGE
    ),
    "ConvLocal(16, (3, 3))": (
        lambda k: nn.ConvLocal(16, (3, 3), padding="VALID", kernel_init=k), (16, 10, 10, 32)
    ),
}  # fmt: skip

NNX: dict[str, tuple[Callable[[Any, nnx.Rngs], Any], tuple[int, ...]]] = {
    "nnx.LinearGeneral(128, 64, batch_axis={0: 16})": (
        lambda k, r: nnx.LinearGeneral(128, 64, batch_axis={0: 16}, kernel_init=k, rngs=r), (16, 64, 128)
    ),
    'nnx.Einsum("btd,dhk->bthk", (128, 8, 16))': (
        lambda k, r: nnx.Einsum("btd,dhk->bthk", (128, 8, 16), kernel_init=k, rngs=r), TEXT
    ),
    "nnx.ConvTranspose(32, 64, (4, 4), strides=(2, 2))": (
        lambda k, r: nnx.ConvTranspose(32, 64, (4, 4), (2, 2), **CIRCULAR, kernel_init=k, rngs=r), IMAGE
    ),
}  # fmt: skip


def linen(make: Make) -> Callable[..., Any]:
    """`(kernel_init, key, x) -> (apply, params)` of a linen layer."""
    return lambda init, key, x: (make(init).apply, make(init).init(key, x))


def of_nnx(make: Callable[[Any, nnx.Rngs], Any]) -> Callable[..., Any]:
    """The same of an nnx layer."""
    return lambda init, key, x: jinit.functional(make(init, nnx.Rngs(key)))


def fan_taken(build: Callable[..., Any], x: jax.Array) -> float:
    """The fan of `lecun_normal` on the shape that the layer hands to its `kernel_init`."""
    fans = []

    def spy(key: jax.Array, shape: tuple[int, ...], *rest: Any, **options: Any) -> jax.Array:
        fans.append(1 / jinit.lecun_normal().variance(shape))
        return jinit.lecun_normal()(key, shape, *rest, **options)

    build(spy, jax.random.key(0), x)
    return fans[-1]


def variance(build: Callable[..., Any], init: Any, shape: tuple[int, ...]) -> float:
    """Mean square of the outputs over draws of the inputs and of the kernel; biases are zero."""

    def one(key: jax.Array) -> float:
        of_input, of_kernel = jax.random.split(key)
        x = jax.random.normal(of_input, shape)
        apply, params = build(init, of_kernel, x)
        return float(jnp.mean(apply(params, x) ** 2))

    keys = jax.random.split(jax.random.key(0), DRAWS)
    return sum(map(one, keys)) / DRAWS


def row(name: str, build: Callable[..., Any], shape: tuple[int, ...]) -> str:
    """One line of the table."""
    x = jnp.zeros(shape)
    apply, params = build(jinit.lecun_normal(), jax.random.key(0), x)
    (kernel,) = (use for use in jinit.audit(apply)(params, x) if use.role == "kernel")
    fan = kernel.fan_in or 0.0
    today = variance(build, jinit.lecun_normal(), shape)
    true = variance(build, jinit.normal(fan**-0.5), shape)
    return f"| `{name}` | {fan:.5g} | {fan_taken(build, x):.5g} | {today:.3f} | {true:.3f} |"


def table() -> str:
    """The whole table, in Markdown."""
    lines = [
        "| layer | true fan-in | fan taken | variance today | variance with the true fan |",
        "|---|---|---|---|---|",
    ]
    builds = [(name, linen(make), shape) for name, (make, shape) in LINEN.items()]
    builds += [(name, of_nnx(make), shape) for name, (make, shape) in NNX.items()]
    return "\n".join([*lines, *(row(*build) for build in builds)])


def main() -> None:
    """Print the table, or write it into a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, help="page that holds the marks of the table")
    page = parser.parse_args().write
    text = table()
    print(text)
    if page is not None:
        marked = f"<!-- fans:begin -->\n{text}\n<!-- fans:end -->"
        old = page.read_text()
        page.write_text(re.sub(r"<!-- fans:begin -->.*<!-- fans:end -->", lambda _: marked, old, flags=re.S))


if __name__ == "__main__":
    main()
