"""Short loops are followed step by step, as if they were written out."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import integrate, stats

import jinit
from jinit.signals.laws import steps
from jinit.signals.laws.pairing import lattice
from tests.zoos.member import array

LENGTH, WIDTH = 4, 64


def convolved(x: Any, p: Any) -> Any:
    """Zero padding makes places differ."""
    x = jax.nn.relu(x)
    return lax.conv_general_dilated(x, p["w"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))


def normalized(x: Any, p: Any) -> Any:
    """Over six examples."""
    y = x @ p["w"]
    y = (y - y.mean((0, 1), keepdims=True)) / jnp.sqrt(y.var((0, 1), keepdims=True) + 1e-5)
    return jax.nn.relu(y)


def gated(x: Any, p: Any) -> Any:
    """As in a GRU."""
    z, new = jax.nn.sigmoid(x @ p["w"]), jnp.tanh(x @ p["v"])
    return (1 - z) * new + z * x


STEPS = {
    "convolved": (convolved, {"w": (3, WIDTH, WIDTH)}, (2, 8, WIDTH)),
    "normalized": (normalized, {"w": (WIDTH, WIDTH)}, (3, 2, WIDTH)),
    "gated": (gated, {"w": (WIDTH, WIDTH), "v": (WIDTH, WIDTH)}, (2, 3, WIDTH)),
}


def both(step: Any, shapes: dict[str, Any], x: Any, *, outputs: bool) -> tuple[Any, Any]:
    """Records of a loop, and of the same written out, by step."""

    def looped(p: Any, x: Any) -> Any:
        last, ys = lax.scan(lambda x, q: ((y := step(x, q)), y), x, p)
        return (last, ys) if outputs else last

    def written_out(p: Any, x: Any) -> Any:
        ys = []
        for k in range(LENGTH):
            x = step(x, {name: p[f"{name}{k}"] for name in shapes})
            ys.append(x)
        return (x, jnp.stack(ys)) if outputs else x

    def law(path: str) -> float:
        return 2 / WIDTH / (3 if step is convolved else 1)

    stacked = {name: jax.ShapeDtypeStruct((LENGTH, *s), "float32") for name, s in shapes.items()}
    single = {
        f"{name}{k}": jax.ShapeDtypeStruct(s, "float32") for name, s in shapes.items() for k in range(LENGTH)
    }
    found = jinit.predict(looped, weights=law)(stacked, x)
    one_by_one = jinit.predict(written_out, weights=law)(single, x)
    return found, {name: [one_by_one[f"{name}{k}"] for k in range(LENGTH)] for name in shapes}


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_a_short_loop_is_as_if_written_out(name, outputs):
    """Places, means of few and what gates have in common are known in it."""
    step, shapes, shape = STEPS[name]
    found, wanted = both(step, shapes, array(*shape, seed=1), outputs=outputs)
    for key in shapes:
        for field in ("input", "output", "cotangent", "weight_gradient"):
            got = getattr(found[key], field).second_moment
            want = [float(getattr(record, field).second_moment) for record in wanted[key]]
            np.testing.assert_allclose(got, want, rtol=0.03 if outputs else 1e-3, err_msg=f"{key} {field}")


def test_outputs_of_a_short_loop_come_together(monkeypatch):
    """What reads all steps at once sees a law of all, as behind a long loop."""

    def apply(p: Any, x: Any) -> Any:
        return lax.scan(lambda h, x: ((y := jnp.tanh(h @ p["w"] + x)), y), x[0], x)[1] @ p["head"]

    shapes = {"w": jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32")}
    shapes["head"] = jax.ShapeDtypeStruct((WIDTH, 8), "float32")
    x = jax.ShapeDtypeStruct((5, 8, WIDTH), "float32")
    short = jinit.predict(apply, weights=lambda path: 1 / WIDTH)(shapes, x)["head"]
    monkeypatch.setattr(steps, "SHORT", 0)
    long = jinit.predict(apply, weights=lambda path: 1 / WIDTH)(shapes, x)["head"]
    for field in ("input", "output", "weight_gradient"):
        got, want = (getattr(x, field).second_moment for x in (short, long))
        np.testing.assert_allclose(got, want, rtol=0.02, err_msg=field)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_gradients_through_gates(cell):
    """Recurrent steps with weights of their own, to which theory applies: states have gates in common."""

    class Steps(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            loop = nn.scan(
                cell, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=1, out_axes=1
            )
            state = jnp.zeros((x.shape[0], x.shape[2]))
            return loop(x.shape[2], name="cell")((state, state) if cell is nn.LSTMCell else state, x)[1]

    model, x = Steps(), array(4, LENGTH, 256, seed=1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    plan = jinit.plan([("*/kernel", jinit.lecun_normal()), ("*/bias", jinit.zeros)])
    predicted: dict[str, Any] = jinit.predict(model.apply, weights=plan)(shapes, x)
    draw = jinit.init(model.apply, plan)
    measure: Any = jax.jit(lambda p, k: jinit.measure(model.apply, key=k)(p, x)[1])
    found = [measure(draw(k, shapes, x), k) for k in map(jax.random.key, range(16))]
    for name, record in predicted.items():
        measured = np.stack([np.asarray(r[name].cotangent.second_moment) for r in found])
        error = measured.std(0, ddof=1) / len(found) ** 0.5
        wanted = np.asarray(record.cotangent.second_moment)
        far = abs(wanted - measured.mean(0)) - 3 * error > 0.12 * measured.mean(0)
        assert not far.any(), (name, wanted / measured.mean(0))


@pytest.mark.parametrize(("count", "dimensions"), [(1021, 12), (509, 9), (257, 5), (127, 5)])
def test_points_fill_the_cube(count, dimensions):
    """Each dimension takes all middles once; normal scores and squares are less correlated than at random."""
    points = lattice(count, dimensions)
    np.testing.assert_allclose(np.sort(points), np.tile((np.arange(count) + 0.5) / count, (dimensions, 1)))
    scores = stats.norm.ppf(points)
    x = np.concatenate([scores, scores**2])
    apart = np.corrcoef(x) - np.eye(2 * dimensions)
    assert abs(apart).max() < 1 / count**0.5
    z, new, old = 1 / (1 + np.exp(-scores[0])), np.tanh(scores[1]), scores[2]
    gate = integrate.quad(lambda x: stats.norm.pdf(x) / (1 + np.exp(-x)) ** 2, -9, 9)[0]
    square = integrate.quad(lambda x: stats.norm.pdf(x) * np.tanh(x) ** 2, -9, 9)[0]
    np.testing.assert_allclose(np.mean((z * old + (1 - z) * new) ** 2), gate * (1 + square), rtol=0.03)
