"""`jinit.lsuv` beside the `lsuv` package on PyTorch, and beside the same algorithm by repeated jitted passes.

    pip install -e '.[bench-torch]'
    python -m experiments.lsuv_vs_torch [--rounds 5] [--write experiments/lsuv_vs_torch.json]

A ReLU network of 100 layers, 512 wide, at batch 256, with the same weights everywhere; a scan in JAX. The
programs take turns, compiled before the first round; medians of the ratios round by round are given. The
package is called without its orthogonal start, which is timed apart: drawing is no part of the method.
*Repeated* does what the package does, with one compiled forward pass that returns every layer's standard
deviation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jinit

DEPTH, WIDTH, BATCH = 100, 512, 256
TOLERANCE, ATTEMPTS = 0.1, 10  # of the package
Params = dict[str, jax.Array]


def network() -> Params:
    """Parameters of a plain network, stacked."""
    keys = jax.random.split(jax.random.key(0), DEPTH)
    kernels = jnp.stack([jinit.lecun_normal()(key, (WIDTH, WIDTH)) for key in keys])
    return {"kernel": kernels, "bias": jnp.zeros((DEPTH, WIDTH))}


def apply(params: Params, x: jax.Array) -> jax.Array:
    """The network: [batch, width] -> the same."""

    def layer(x: jax.Array, p: Params) -> tuple[jax.Array, None]:
        return jax.nn.relu(x @ p["kernel"] + p["bias"]), None

    return jax.lax.scan(layer, x, params)[0]


@jax.jit
def deviations(params: Params, scales: np.ndarray, x: jax.Array) -> jax.Array:
    """The standard deviation before every activation, kernels being multiplied by `scales`; `[depth]`."""

    def layer(x: jax.Array, given: tuple[Params, jax.Array]) -> tuple[jax.Array, jax.Array]:
        p, scale = given
        y = scale * (x @ p["kernel"]) + p["bias"]
        return jax.nn.relu(y), jnp.std(y)

    return jax.lax.scan(layer, x, (params, scales))[1]


class Repeated:
    """LSUV as published, each trial a forward pass; counts them."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, params: Params, x: jax.Array) -> Params:
        """Parameters rescaled layer by layer."""
        scales, self.passes = np.ones(DEPTH, np.float32), 0
        for i in range(DEPTH):
            for _ in range(ATTEMPTS):
                deviation = float(deviations(params, scales, x)[i])
                self.passes += 1
                if abs(deviation - 1) <= TOLERANCE:
                    break
                scales[i] /= deviation
        self.reached = {**params, "kernel": params["kernel"] * scales[:, None, None]}
        return self.reached


class Package:
    """The network and the `lsuv` package in PyTorch; counts forward passes."""

    def __init__(self, params: Params, x: jax.Array):
        import torch

        self.torch, self.x, self.passes = torch, torch.tensor(np.asarray(x)), 0
        self.kernels = [torch.tensor(kernel.T.copy()) for kernel in np.asarray(params["kernel"])]
        layers = [module for _ in range(DEPTH) for module in (torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU())]
        self.model = torch.nn.Sequential(*layers)
        self.model.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.passes += 1

    def reset(self) -> None:
        """The weights of before."""
        with self.torch.no_grad():
            for module, kernel in zip(self.model[::2], self.kernels, strict=True):
                module.weight.copy_(kernel)
                module.bias.zero_()
        self.passes = 0

    def forward(self) -> Any:
        """One plain forward pass."""
        with self.torch.inference_mode():
            return self.model(self.x)

    def calibrate(self) -> None:
        """What the package does."""
        from lsuv import lsuv_with_singlebatch

        lsuv_with_singlebatch(self.model, self.x, do_orthonorm=False, verbose=False)

    def orthogonal(self) -> None:
        """What the package does before it by default."""
        for module in self.model[::2]:
            self.torch.nn.init.orthogonal_(module.weight)

    def worst(self) -> float:
        """The largest distance of a standard deviation from one."""
        x, worst = self.x, 0.0
        with self.torch.inference_mode():
            for module in self.model:
                x = module(x)
                if isinstance(module, self.torch.nn.Linear):
                    worst = max(worst, abs(float(x.std()) - 1))
        return worst


def seconds(program: Callable[..., Any], *args: Any) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    jax.block_until_ready(program(*args))
    return time.perf_counter() - start


def run(rounds: int) -> Iterator[dict[str, Any]]:
    """After every round: times in seconds, round by round, passes, and the accuracy reached."""
    params, x = network(), jax.random.normal(jax.random.key(1), (BATCH, WIDTH))
    plain = jax.jit(apply).lower(params, x).compile()
    start = time.perf_counter()
    calibrate = jax.jit(jinit.lsuv(apply)).lower(params, x).compile()
    compiling = time.perf_counter() - start
    repeated, package = Repeated(), Package(params, x)
    programs: dict[str, Callable[[], Any]] = {
        "jax_forward": lambda: plain(params, x),
        "jinit": lambda: calibrate(params, x),
        "repeated": lambda: repeated(params, x),
        "torch_forward": package.forward,
        "package": package.calibrate,
        "package_orthogonal": package.orthogonal,
    }
    ones = np.ones(DEPTH, np.float32)
    deviations(params, ones, x)
    times: dict[str, list[float]] = {name: [] for name in programs}
    error = lambda new: float(jnp.max(jnp.abs(deviations(new, ones, x) - 1)))  # noqa: E731
    for number in range(rounds):
        for name, program in programs.items():
            package.reset()
            times[name].append(seconds(program))
            print(f"round {number + 1} of {rounds}: {name} {times[name][-1]:.3f} s", file=sys.stderr)
            if name == "package":
                passes, worst = package.passes, package.worst()
        yield {
            "depth": DEPTH, "width": WIDTH, "batch": BATCH, "rounds": number + 1, "seconds": times,
            "compiling": compiling, "passes": {"repeated": repeated.passes, "package": passes},
            "worst": {"jinit": error(calibrate(params, x)[0]), "repeated": error(repeated.reached),
                      "package": worst},
            "versions": {"jax": jax.__version__, "torch": package.torch.__version__},
        }  # fmt: skip


PAIRS = (
    ("jinit", "jax_forward"), ("repeated", "jinit"), ("package", "jinit"), ("package", "repeated"),
    ("package", "torch_forward"), ("package_orthogonal", "jinit"),
)  # fmt: skip


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Medians of the times and of their ratios round by round."""
    times = result["seconds"]
    ratios = {
        f"{a} / {b}": statistics.median(p / q for p, q in zip(times[a], times[b], strict=True))
        for a, b in PAIRS
    }
    return {"seconds": {name: statistics.median(t) for name, t in times.items()}, "ratios": ratios}


def main() -> None:
    """Print the medians, and keep everything if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="where to put the result as JSON")
    arguments = parser.parse_args()
    for result in run(arguments.rounds):
        medians = summary(result)
        if arguments.write:
            arguments.write.write_text(json.dumps({"medians": medians, **result}, indent=1) + "\n")
    for name, value in medians["seconds"].items():
        print(f"{name:20s} {value:8.3f} s")
    for name, value in medians["ratios"].items():
        print(f"{name:32s} {value:8.2f}")
    print("passes", result["passes"], "largest |std - 1|", result["worst"])


if __name__ == "__main__":
    main()
