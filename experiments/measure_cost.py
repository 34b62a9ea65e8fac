"""What `measure` costs, in run time and in compile time, beside the same network without it.

    python -m experiments.measure_cost [--rounds 31]

Run time: a 50-layer, 512-wide MLP at batch 256, `measure` against a jitted `value_and_grad` and against
a jitted random-cotangent pull-back; the programs take turns, and medians of the ratios round by round
are given. Compile time: tracing, lowering and compiling at depth 200, unrolled, and at depths 10 and
1000 under `scan`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

import jinit

WIDTH, BATCH = 512, 256


def unrolled(depth: int) -> tuple[Any, Any]:
    """`(apply, params)` of a plain ReLU network, layer by layer."""
    init = jinit.he_normal()
    keys = jax.random.split(jax.random.key(0), depth)
    params = [{"kernel": init(key, (WIDTH, WIDTH)), "bias": jnp.zeros(WIDTH)} for key in keys]

    def apply(params: Any, x: jax.Array) -> jax.Array:
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        return x @ params[-1]["kernel"] + params[-1]["bias"]

    return apply, params


def scanned(depth: int) -> tuple[Any, Any]:
    """The same network as one `scan`."""
    keys = jax.random.split(jax.random.key(0), depth)
    kernels = jax.vmap(lambda key: jinit.he_normal()(key, (WIDTH, WIDTH)))(keys)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, kernel: (jax.nn.relu(x @ kernel), None), x, params["kernel"])[0]

    return apply, {"kernel": kernels}


def programs(apply: Any) -> dict[str, Any]:
    """The plain passes, and the measured ones beside them."""

    def loss(outputs: jax.Array) -> jax.Array:
        return jnp.mean(outputs**2)

    def pull_back(params: Any, x: jax.Array) -> Any:
        outputs, pull = jax.vjp(lambda p: apply(p, x), params)
        return outputs, pull(jax.random.normal(jax.random.key(0), outputs.shape))

    return {
        "value_and_grad": jax.value_and_grad(lambda params, x: loss(apply(params, x))),
        "measure with loss": jinit.measure(apply, loss=loss),
        "pull back": pull_back,
        "measure": jinit.measure(apply),
    }


def compile_seconds(function: Any, *args: Any) -> tuple[float, Any]:
    """Time to trace, lower and compile, and the compiled program."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    return time.perf_counter() - start, compiled


def run_time(rounds: int, depth: int = 50) -> None:
    """Print medians of the run times, and of their ratios within a round."""
    apply, params = unrolled(depth)
    x = jax.random.normal(jax.random.key(1), (BATCH, WIDTH))
    compiled = {name: compile_seconds(f, params, x)[1] for name, f in programs(apply).items()}
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(rounds):
        for name, program in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(program(params, x))
            times[name].append(time.perf_counter() - start)
    for measured, plain in (("measure with loss", "value_and_grad"), ("measure", "pull back")):
        ratios = [a / b for a, b in zip(times[measured], times[plain], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        took = 1e3 * statistics.median(times[measured])
        spread = f"(quartiles {low:.2f}, {high:.2f})"
        print(f"depth {depth}: {measured} takes {took:.1f} ms, {middle:.2f} x {plain} {spread}")


def compile_time(repeats: int) -> None:
    """Print the time to compile, in seconds and as a multiple of the plain pass."""
    x = jax.random.normal(jax.random.key(1), (BATCH, WIDTH))
    for label, build, depths in (("unrolled", unrolled, (50, 200)), ("scan", scanned, (10, 1000))):
        for depth in depths:
            apply, params = build(depth)
            seconds: dict[str, list[float]] = {"value_and_grad": [], "measure with loss": []}
            for _ in range(repeats):
                jax.clear_caches()
                for name in seconds:
                    seconds[name].append(compile_seconds(programs(apply)[name], params, x)[0])
            plain, measured = (min(s) for s in seconds.values())
            times = f"{measured:.2f} s, {measured / plain:.1f} x plain ({plain:.2f} s)"
            print(f"{label}, depth {depth}: compiles in {times}")


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=31, help="rounds of the run-time comparison")
    parser.add_argument(
        "--repeats", type=int, default=2, help="compilations of each program; the fastest counts"
    )
    arguments = parser.parse_args()
    compile_time(arguments.repeats)
    run_time(arguments.rounds)


if __name__ == "__main__":
    main()
