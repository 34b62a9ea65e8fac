"""Time from a model to its first parameters: `jinit.init` beside `model.init`, eager and jitted.

    python -m experiments.first_parameters [--layers 12 48 96] [--rounds 3] [--jit-up-to 48]

A pre-LN transformer of width 256 in linen, in float32. Every measurement is a fresh process without a
compilation cache, and starts when the model and the input are made; the ways take turns, so that a busy
machine disturbs all alike. `jinit.init` starts from `jax.eval_shape(model.init, …)`, which is counted. The
time of `jax.jit(model.init)` grows faster than the depth, so it is left out for deep models unless asked
for. Printed are medians, and for `jinit.init` the ratio to the better of the other two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import jinit

WIDTH, HEADS, VOCABULARY, LENGTH = 256, 4, 1000, 16
WAYS = ("jinit", "eager", "jit")


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a LayerNorm and beside an identity."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, length, width] -> the same."""
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=HEADS)(h, h)
        h = nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x)))
        return x + nn.Dense(WIDTH)(h)


class Transformer(nn.Module):
    """A pre-LN transformer."""

    layers: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[batch, length] -> [batch, length, vocabulary]."""
        x = nn.Embed(VOCABULARY, WIDTH)(tokens)
        for _ in range(self.layers):
            x = Block()(x)
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(x))


def by_plan(model: Transformer, key: jax.Array, x: jax.Array, seconds: dict[str, float]) -> Any:
    """The parameters by a plan whose residual branches shrink with depth."""
    start = time.perf_counter()
    shapes = jax.eval_shape(model.init, key, x)
    seconds["eval_shape"] = time.perf_counter() - start
    plan = jinit.plan(
        [
            ("*/embedding", jinit.normal(0.02)),
            ("*/out/kernel", lambda use: jinit.variance_scaling(1 / use.count, "fan_in", "truncated_normal")),
            ("*/kernel", jinit.lecun_normal()),
            ("*/scale", jinit.ones),
            ("*/bias", jinit.zeros),
        ]
    )
    return jinit.init(model.apply, plan)(key, shapes, x)


def measure(way: str, layers: int) -> dict[str, float]:
    """Seconds that one way takes in this process."""
    model, x, key = Transformer(layers), jnp.zeros((2, LENGTH), jnp.int32), jax.random.key(0)
    jax.block_until_ready((x, key))
    seconds: dict[str, float] = {}
    wall, processor = time.perf_counter(), time.process_time()
    if way == "jinit":
        params = by_plan(model, key, x, seconds)
    else:
        params = (jax.jit(model.init) if way == "jit" else model.init)(key, x)
    jax.block_until_ready(params)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - processor, **seconds}


def in_fresh_process(way: str, layers: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "experiments.first_parameters", "--one", way, "--layers", str(layers)]
    env = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(layers: int, rounds: int, ways: tuple[str, ...]) -> None:
    """Print medians over rounds in which the ways take turns."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            runs[way].append(in_fresh_process(way, layers))
    for way in ways:
        names = runs[way][0]
        found = {name: statistics.median(run[name] for run in runs[way]) for name in names}
        print(f"{layers} layers, {way:5}: " + ", ".join(f"{n} {s:.2f} s" for n, s in found.items()))
    for unit in ("wall", "cpu"):
        ratios = [
            runs["jinit"][i][unit] / min(runs[way][i][unit] for way in ways if way != "jinit")
            for i in range(rounds)
        ]
        shown = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
        print(f"{layers} layers, {unit}: jinit takes {statistics.median(ratios):.2f} of the better ({shown})")


def main() -> None:
    """Run all, or one measurement in this process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 48, 96])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--jit-up-to", type=int, default=48, help="deepest model to try `jax.jit(model.init)` on"
    )
    parser.add_argument("--one", choices=WAYS, help="measure one way, here")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.layers[0])))
        return
    for layers in arguments.layers:
        compare(layers, arguments.rounds, WAYS if layers <= arguments.jit_up_to else WAYS[:2])


if __name__ == "__main__":
    main()
