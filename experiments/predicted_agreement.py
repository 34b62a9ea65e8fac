"""How well predicted second moments agree with measured ones, network by network and site by site.

    python -m experiments.predicted_agreement [--write docs/predicting.md] [network …]

For every network: `predict` from the variances of its initializers alone, against the mean of `measure` over
draws of the weights and of the cotangent, all steps of a loop together. A cell holds the smallest and largest
ratio over all sites.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

import jinit

DRAWS = 12
FIELDS = ("input", "output", "cotangent", "weight_gradient")
HEAD = ("| network | input | output | cotangent | weight gradient |", "|---|---|---|---|---|")
INTRODUCTION = """# Agreement at every site

Predicted over measured second moments (`python -m experiments.predicted_agreement`).
[Predicting](predicting.md) says where errors come from."""
BEGIN, END = "<!-- agreement -->\n", "<!-- end of agreement -->"
Made = tuple[Callable[..., Any], Callable[[jax.Array], Any], tuple[Any, ...], dict[str, Any]]


class Block(nn.Module):
    """A pre-norm transformer block, behind a causal mask or none."""

    causal: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Attention and a perceptron, each added to its input."""
        mask = nn.make_causal_mask(x[..., 0]) if self.causal else None
        x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x), mask=mask)
        return x + nn.Dense(128)(nn.gelu(nn.Dense(512)(nn.LayerNorm()(x))))


class Gated(nn.Module):
    """RMSNorm and SwiGLU, twice."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Two residual blocks."""
        for _ in range(2):
            h = nn.RMSNorm()(x)
            x = x + nn.Dense(128)(nn.silu(nn.Dense(384)(h)) * nn.Dense(384)(h))
        return nn.Dense(64)(x)


class Convolutional(nn.Module):
    """Convolutions, BatchNorm, max- and average pooling."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Two normalized convolutions and one without."""
        for _ in range(2):
            x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Conv(64, (3, 3))(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.avg_pool(nn.relu(nn.Conv(64, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(64)(x.reshape(x.shape[0], -1))


class Normalized(nn.Module):
    """BatchNorm before every ReLU: of dense layers, or of convolutions with a mean over all places."""

    convolutions: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Three normalized layers."""
        for _ in range(3):
            layer = nn.Conv(64, (3, 3)) if self.convolutions else nn.Dense(256)
            x = nn.relu(nn.BatchNorm(use_running_average=False)(layer(x)))
        return nn.Dense(64)(x.mean((1, 2)) if self.convolutions else x)


class Excited(nn.Module):
    """Squeeze and excitation before a BatchNorm."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Two blocks, each with a gate for each channel of each example."""
        for _ in range(2):
            x = nn.silu(nn.BatchNorm(use_running_average=False)(nn.Conv(128, (3, 3))(x)))
            gate = nn.Dense(128)(nn.silu(nn.Dense(32)(x.mean((1, 2), keepdims=True))))
            x = nn.BatchNorm(use_running_average=False)(nn.Conv(128, (1, 1))(x * nn.sigmoid(gate)))
        return nn.Dense(64)(nn.silu(x).mean((1, 2)))


class Padded(nn.Module):
    """Convolutions on small maps."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Six convolutions with zero padding."""
        for _ in range(5):
            x = nn.relu(nn.Conv(128, (3, 3))(x))
        return nn.Conv(64, (3, 3))(x)


class Mixer(nn.Module):
    """MLP-Mixer."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Two blocks that mix tokens, then channels."""
        for _ in range(2):
            h = nn.LayerNorm()(x).swapaxes(1, 2)
            x = x + nn.Dense(x.shape[1])(nn.gelu(nn.Dense(128)(h))).swapaxes(1, 2)
            x = x + nn.Dense(128)(nn.gelu(nn.Dense(512)(nn.LayerNorm()(x))))
        return nn.Dense(32)(nn.LayerNorm()(x).mean(1))


class Patches(nn.Module):
    """A small vision transformer."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Patches, one block, and the mean over patches."""
        x = nn.Conv(128, (4, 4), (4, 4))(x)
        x = Block()(x.reshape(x.shape[0], -1, 128))
        return nn.Dense(32)(nn.LayerNorm()(x).mean(1))


class MetaFormer(nn.Module):
    """Attention in windows of 4 × 4, shifted in every other block, or an average around each place."""

    windows: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Two blocks of 128 channels, and the mean over places."""
        x = nn.Dense(128)(x)
        for block in range(2):
            h = nn.LayerNorm()(x)
            x = x + (
                self.attention(h, 2 * block) if self.windows else nn.avg_pool(h, (3, 3), padding="SAME") - h
            )
            x = x + nn.Dense(128)(nn.gelu(nn.Dense(256)(nn.LayerNorm()(x))))
        return nn.Dense(64)(nn.LayerNorm()(x).mean((1, 2)))

    def attention(self, x: Any, shift: int) -> Any:
        """Attention within windows, and everything back at its place."""
        batch, height, width, channels = x.shape
        grid = (batch, height // 4, 4, width // 4, 4, channels)
        x = jnp.roll(x, (-shift, -shift), (1, 2)).reshape(grid).swapaxes(2, 3).reshape(-1, 16, channels)
        x = nn.MultiHeadDotProductAttention(4)(x).reshape(batch, height // 4, width // 4, 4, 4, channels)
        return jnp.roll(x.swapaxes(2, 3).reshape(batch, height, width, channels), (shift, shift), (1, 2))


def normal(*shape: int) -> jax.Array:
    """A standard normal input."""
    return jnp.asarray(np.random.default_rng(7).normal(size=shape), jnp.float32)


def linen(model: nn.Module, x: Any, **options: Any) -> Made:
    """A linen module."""
    return model.apply, jax.jit(lambda key: model.init(key, x)), (x,), options


def haiku() -> Made:
    """A perceptron of haiku."""
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([256, 256, 64], activation=jax.nn.gelu)(x)))
    x = normal(64, 128)
    return net.apply, jax.jit(lambda key: net.init(key, x)), (x,), {}


def equinox() -> Made:
    """A perceptron of equinox."""

    def init(key: jax.Array) -> Any:
        return eqx.filter(eqx.nn.MLP(128, 64, 256, 3, activation=jnp.tanh, key=key), eqx.is_array)

    _, static = eqx.partition(eqx.nn.MLP(128, 64, 256, 3, jnp.tanh, key=jax.random.key(0)), eqx.is_array)
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), jax.jit(init), (normal(64, 128),), {}


NETWORKS: dict[str, Callable[[], Made]] = {
    "linen: RMSNorm, SwiGLU, residual sums, width 128": lambda: linen(Gated(), normal(32, 128)),
    "haiku: MLP of gelu, width 256": haiku,
    "equinox: MLP of tanh, width 256": equinox,
    "linen: BatchNorm in training, MLP of ReLU, width 256": lambda: linen(
        Normalized(convolutions=False), normal(64, 128), mutable=["batch_stats"]
    ),
    "linen: BatchNorm in training, convolutions, mean over all places, 64 channels": lambda: linen(
        Normalized(convolutions=True), normal(64, 12, 12, 16), mutable=["batch_stats"]
    ),
    "linen: BatchNorm in training, max- and average pooling, zero padding, 64 channels": lambda: linen(
        Convolutional(), normal(16, 16, 16, 8), mutable=["batch_stats"]
    ),
    "linen: squeeze and excitation, BatchNorm, mean over all places, 128 channels": lambda: linen(
        Excited(), normal(8, 8, 8, 32), mutable=["batch_stats"]
    ),
    "linen: six convolutions with ReLU, zero padding, 8 × 8, 128 channels": lambda: linen(
        Padded(), normal(16, 8, 8, 32)
    ),
    "linen: LSTM of 6 steps, width 128": lambda: linen(
        nn.Sequential([nn.RNN(nn.LSTMCell(128)), nn.Dense(64)]), normal(16, 6, 128)
    ),
    "linen: GRU of 6 steps, width 128": lambda: linen(
        nn.Sequential([nn.RNN(nn.GRUCell(128)), nn.Dense(64)]), normal(16, 6, 128)
    ),
    "linen: vision transformer, one block, 16 patches, width 128": lambda: linen(
        Patches(), normal(8, 16, 16, 3)
    ),
    "linen: MLP-Mixer, two blocks, 64 tokens, width 128": lambda: linen(Mixer(), normal(8, 64, 128)),
    "linen: transformer, two blocks, 32 tokens, width 128": lambda: linen(
        nn.Sequential([nn.Embed(512, 128), Block(), Block(), nn.LayerNorm(), nn.Dense(64)]),
        jnp.asarray(np.random.default_rng(0).integers(0, 512, (4, 32)), jnp.int32),
    ),
    "linen: causal language model, two blocks, 32 tokens, width 128": lambda: linen(
        nn.Sequential([nn.Embed(512, 128), Block(True), Block(True), nn.LayerNorm(), nn.Dense(64)]),
        jnp.asarray(np.random.default_rng(0).integers(0, 512, (4, 32)), jnp.int32),
    ),
    "linen: attention in shifted windows (Swin), two blocks, 8 × 8, 128 channels": lambda: linen(
        MetaFormer(windows=True), normal(4, 8, 8, 128)
    ),
    "linen: PoolFormer, two blocks, zero padding, 8 × 8, 128 channels": lambda: linen(
        MetaFormer(windows=False), normal(4, 8, 8, 128)
    ),
}


def ratios(name: str) -> dict[str, dict[str, float]]:
    """By site and field, predicted over measured second moment."""
    apply, init, inputs, options = NETWORKS[name]()
    draws = [init(jax.random.key(i)) for i in range(DRAWS)]
    paths = [jax.tree_util.keystr(k) for k, _ in jax.tree_util.tree_leaves_with_path(draws[0])]
    leaves = zip(*(jax.tree.leaves(d) for d in draws), strict=True)
    variances = {
        p: float(np.mean([np.mean(np.square(x)) for x in xs])) for p, xs in zip(paths, leaves, strict=True)
    }
    names = [u.path for u in jinit.audit(apply)(draws[0], *inputs, **options)]
    by_name = dict(zip(names, variances.values(), strict=True))
    kernels = {n: v for n, v in by_name.items() if not n.endswith(("bias", "/b", "scale", "mean", "var"))}
    predicted = jinit.predict(apply, weights=kernels)(draws[0], *inputs, **options)
    measure = jax.jit(lambda p, key: jinit.measure(apply, key=key)(p, *inputs, **options)[1])
    measured = [measure(p, jax.random.key(100 + i)) for i, p in enumerate(draws)]
    found: dict[str, dict[str, float]] = {}
    for site, record in predicted.items():
        found[site] = {}
        for field in FIELDS:
            if (moments := getattr(record, field)) is not None:
                seen = np.mean([getattr(m[site], field).second_moment for m in measured])
                found[site][field] = float(np.mean(moments.second_moment) / seen)
    return found


def row(name: str, found: dict[str, dict[str, float]]) -> str:
    """A line of the table."""
    values = [[fields[field] for fields in found.values() if field in fields] for field in FIELDS]
    return f"| {name} | " + " | ".join(f"{min(v):.2f}–{max(v):.2f}" for v in values) + " |"


def sites(name: str, found: dict[str, dict[str, float]]) -> str:
    """The table of all sites of a network, under its name."""
    lines = [f"## {name[0].upper()}{name[1:]}", "", HEAD[0].replace("network", "site"), HEAD[1]]
    for site, fields in found.items():
        cells = [f"`{site}`", *(f"{fields[field]:.2f}" if field in fields else "" for field in FIELDS)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Prints every site, then the table; writes the table, and a page of all sites, where told."""
    parser = argparse.ArgumentParser()
    for option in ("--write", "--sites"):
        parser.add_argument(option, type=Path)
    parser.add_argument("networks", nargs="*")
    arguments = parser.parse_args()
    lines, page = list(HEAD), []
    for name in arguments.networks or NETWORKS:
        found = ratios(name)
        for site, fields in found.items():
            print(f"{site:60s}", *(f"{field} {value:.3f}" for field, value in fields.items()), flush=True)
        lines, page = [*lines, row(name, found)], [*page, sites(name, found)]
        print(lines[-1], flush=True)
    if arguments.sites is not None:
        arguments.sites.write_text("\n\n".join([INTRODUCTION, *page]) + "\n")
    if arguments.write is not None:
        text = arguments.write.read_text()
        before, _, rest = text.partition(BEGIN)
        arguments.write.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
