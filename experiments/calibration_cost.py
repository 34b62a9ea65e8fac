"""What `lsuv` costs beside one plain forward pass, and beside the same algorithm by repeated passes.

    python -m experiments.calibration_cost [--rounds 31] [--depth 50] [--scan] [--repeated]

A ReLU network of 50 layers, 512 wide, at batch 256; or one of 100 in a scan, that of `lsuv_vs_torch`. The
programs take turns, and medians of the ratios round by round are given. *Multiplied* is the least that any
calibration can do: the forward pass, and every parameter times a number. *Donated* lets the new parameters
take the place of the old ones, so that no memory is asked for.
`--repeated` sets layer after layer, each with a jitted forward pass up to it that returns one number.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

import jinit
from experiments import lsuv_vs_torch

WIDTH, BATCH = 512, 256
Params = list[dict[str, jax.Array]]


def network(depth: int) -> Params:
    """Parameters of a plain network."""
    keys = jax.random.split(jax.random.key(0), depth)
    init = jinit.lecun_normal()
    return [{"kernel": init(key, (WIDTH, WIDTH)), "bias": jnp.zeros(WIDTH)} for key in keys]


def apply(params: Params, x: jax.Array) -> jax.Array:
    """The network."""
    for layer in params:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x


def repeated(params: Params, x: jax.Array) -> Params:
    """LSUV as published: a pass up to each layer, whose weight is then divided by the standard deviation."""

    @jax.jit
    def deviation(params: Params, x: jax.Array) -> jax.Array:
        before = apply(params[:-1], x)
        return jnp.std(before @ params[-1]["kernel"] + params[-1]["bias"])

    params = list(params)
    for i, layer in enumerate(params):
        scale = 1 / deviation(params[: i + 1], x)
        params[i] = {**layer, "kernel": layer["kernel"] * scale}
    return params


def seconds(program: Any, *args: Any) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    jax.block_until_ready(program(*args))
    return time.perf_counter() - start


def main() -> None:
    """Print medians of the ratios to one plain forward pass."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--scan", action="store_true", help="the 100 layers of `lsuv_vs_torch`")
    parser.add_argument(
        "--repeated", action="store_true", help="time the repeated passes too (compiles long)"
    )
    arguments = parser.parse_args()
    x = jax.random.normal(jax.random.key(1), (BATCH, WIDTH))
    params: Any = lsuv_vs_torch.network() if arguments.scan else network(arguments.depth)
    forward: Any = lsuv_vs_torch.apply if arguments.scan else apply

    def multiplied(params: Any, x: jax.Array) -> Any:
        return forward(params, x), jax.tree.map(lambda leaf: 1.01 * leaf, params)

    def compiled(function: Any, **options: Any) -> Any:
        return jax.jit(function, **options).lower(params, x).compile()

    plain = compiled(forward)
    programs = {
        "lsuv": compiled(jinit.lsuv(forward)),
        "lsuv, donated": compiled(jinit.lsuv(forward), donate_argnums=0),
        "lsuv, verified": compiled(jinit.lsuv(forward, verify=True)),
        "multiplied": compiled(multiplied),
    }
    times: dict[str, list[float]] = {name: [] for name in ("plain", *programs)}
    for _ in range(arguments.rounds):
        times["plain"].append(seconds(plain, params, x))
        for name, program in programs.items():
            given = jax.block_until_ready(jax.tree.map(jnp.copy, params)) if "donated" in name else params
            times[name].append(seconds(program, given, x))
    print(f"plain forward: {1e3 * statistics.median(times['plain']):.1f} ms")
    for name in programs:
        ratios = [a / b for a, b in zip(times[name], times["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name}: {middle:.2f} x plain (quartiles {low:.2f}, {high:.2f})")
    if arguments.repeated:
        repeated(params, x)  # compiles
        took = seconds(repeated, params, x)
        print(f"repeated passes: {took / statistics.median(times['plain']):.0f} x plain")


if __name__ == "__main__":
    main()
