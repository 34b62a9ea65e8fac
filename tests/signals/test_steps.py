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
from jinit.signals.laws import loops, steps
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


@pytest.mark.parametrize("cell", [pytest.param(nn.LSTMCell, marks=pytest.mark.slow), nn.GRUCell])
@pytest.mark.slow
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


def predicted(apply: Any, x: Any, rules: Any = None, **shapes: tuple[int, ...]) -> Any:
    params = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    return jinit.predict(apply, weights=lambda path: 1 / WIDTH, rules=rules)(params, x)


def tanh_step(h: Any, w: Any) -> tuple[Any, Any]:
    return (h := h + jnp.tanh(h @ w)), h


def test_the_last_output_is_the_last_state():
    """Gradients reach one of a loop's outputs, and not the others."""
    x, shapes = array(8, WIDTH, seed=1), {"w": (LENGTH, WIDTH, WIDTH), "head": (WIDTH, 8)}
    state = predicted(lambda p, x: lax.scan(tanh_step, x, p["w"])[0] @ p["head"], x, **shapes)
    output = predicted(lambda p, x: lax.scan(tanh_step, x, p["w"])[1][-1] @ p["head"], x, **shapes)
    for name in shapes:
        for field in ("input", "cotangent", "weight_gradient"):
            got, want = (getattr(r[name], field).second_moment for r in (output, state))
            np.testing.assert_allclose(got, want, rtol=1e-4, err_msg=f"{name} {field}")


@pytest.mark.parametrize(
    "moved",
    [lambda h: jnp.pad(h[:-1], ((1, 0), (0, 0), (0, 0))), lambda h: h[::-1]],
    ids=["shifted", "reversed"],
)
@pytest.mark.slow
def test_what_a_loop_runs_over_differs_from_step_to_step(moved):
    """A sequence that is shifted or reversed: each step has its own entries, and gives its own gradient."""

    def apply(p: Any, x: Any, looped: bool) -> Any:
        h = moved(jnp.tanh(x @ p["a"]))
        state = jnp.zeros((x.shape[1], WIDTH))

        def step(c: Any, x: Any) -> tuple[Any, Any]:
            return jnp.tanh(c @ p["u"] + x[0] @ x[1]), None

        if looped:
            return lax.scan(step, state, (h, p["w"]))[0]
        for k in range(LENGTH):
            state, _ = step(state, (h[k], p["w"][k]))
        return state

    shapes = {"a": (WIDTH, WIDTH), "u": (WIDTH, WIDTH), "w": (LENGTH, WIDTH, WIDTH)}
    x = array(LENGTH, 3, WIDTH, seed=2)
    loop, flat = (predicted(lambda p, x, k=k: apply(p, x, k), x, **shapes) for k in (True, False))
    for field in ("cotangent", "weight_gradient"):
        got, want = (getattr(r["a"], field).second_moment for r in (loop, flat))
        np.testing.assert_allclose(got, want, rtol=0.03, err_msg=field)


def test_what_sums_to_zero_over_steps_does_not_within_one():
    """Centred over time and examples together; of one step's examples the sum is not zero."""

    def apply(p: Any, x: Any) -> Any:
        h = x @ p["a"]
        h = h - h.mean((0, 1), keepdims=True)
        return lax.scan(lambda c, q: (c + q[0] @ q[1], None), jnp.zeros((8, WIDTH)), (h, p["w"]))[0].mean(0)

    found = predicted(apply, array(LENGTH, 8, WIDTH, seed=3), a=(WIDTH, WIDTH), w=(LENGTH, WIDTH, WIDTH))
    np.testing.assert_allclose(found["w"].weight_gradient.second_moment, 1 / 8, rtol=0.1)


def test_pieces_that_are_stacked_are_different_variables():
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    square = float((weights / weights.sum() * np.tanh(nodes) ** 2).sum())
    x = jax.ShapeDtypeStruct((8, WIDTH), "float32")

    def apply(p: Any, x: Any) -> Any:
        return jnp.stack([jnp.tanh(x @ p[f"{i}"]) for i in range(5)]).sum(0) @ p["head"]

    def repeated(p: Any, x: Any) -> Any:
        return jnp.stack([jnp.tanh(x @ p["0"])] * 5).sum(0) @ p["head"]

    each = {f"{i}": (WIDTH, WIDTH) for i in range(5)}
    found = predicted(apply, x, head=(WIDTH, 8), **each)["head"].input.second_moment
    np.testing.assert_allclose(found, 5 * square, rtol=1e-3)
    same = predicted(repeated, x, head=(WIDTH, 8), **{"0": (WIDTH, WIDTH)})["head"].input.second_moment
    np.testing.assert_allclose(same, 25 * square, rtol=1e-3)


def test_a_rule_holds_for_what_is_made_of_its_result():
    def apply(p: Any, x: Any) -> Any:
        h = x @ p["a"]
        return (jnp.tanh(h) * h) @ p["b"]

    x = jax.ShapeDtypeStruct((8, WIDTH), "float32")
    rules = {lax.tanh_p: lambda moments, eqn: [(0.0, 4.0)]}
    found = predicted(apply, x, rules, a=(WIDTH, WIDTH), b=(WIDTH, WIDTH))["b"].input.second_moment
    np.testing.assert_allclose(found, 4.0, rtol=1e-3)


def test_a_sequence_from_outside_of_a_loop_has_moments_without_steps():
    def apply(p: Any, x: Any) -> Any:
        return lax.scan(lambda c, k: (jnp.tanh(c + k), None), jnp.zeros(x.shape[1:]), x @ p["k"])[0]

    found = predicted(apply, array(LENGTH, 8, WIDTH, seed=4), k=(WIDTH, WIDTH))["k"]
    assert found.cotangent.second_moment.shape == ()


def test_stacks_of_layers_are_written_out_further_than_recurrent_steps(monkeypatch):
    """Twenty layers have laws of their own, as without a loop; twenty steps with one matrix do not."""
    count, matrix = steps.SHORT + 4, jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32")

    def layer(h: Any, w: Any) -> tuple[Any, None]:
        return h + jax.nn.relu(h @ w), None

    def stack(p: Any, x: Any) -> Any:
        return lax.scan(layer, x, p["w"])[0]

    def recurrent(p: Any, x: Any) -> Any:
        return lax.scan(lambda h, _: layer(h, p["w"]), x, None, length=count)[0]

    def without_loop(p: Any, x: Any) -> Any:
        for k in range(count):
            x = layer(x, p[f"{k}"])[0]
        return x

    def run(apply: Any, shapes: Any, **settings: Any) -> Any:
        x = jax.ShapeDtypeStruct((8, WIDTH), "float32")
        return jinit.predict(apply, weights=lambda path: 0.5 / WIDTH, **settings)(shapes, x)

    found = run(stack, {"w": jax.ShapeDtypeStruct((count, WIDTH, WIDTH), "float32")})["w"]
    expected = run(without_loop, {f"{k}": matrix for k in range(count)})
    for field in ("input", "output", "cotangent", "weight_gradient"):
        want = [getattr(expected[f"{k}"], field).second_moment for k in range(count)]
        np.testing.assert_allclose(getattr(found, field).second_moment, want, rtol=1e-4, err_msg=field)
    monkeypatch.setattr(loops, "written_out", None)
    run(recurrent, {"w": matrix}, backward=False)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, steps.LAYERS + 1])
def test_derivatives_of_predictions(count):
    """Where a part has no variance the root's derivative is not infinite; loops long and short."""

    def apply(p: Any, x: Any) -> Any:
        def step(h: Any, w: Any) -> tuple[Any, Any]:
            return jax.nn.sigmoid(h @ w["a"]) * jnp.tanh(h @ w["b"]) + h, None

        return lax.scan(step, x, p)[0]

    shapes = {name: jax.ShapeDtypeStruct((count, WIDTH, WIDTH), "float32") for name in "ab"}
    x = jax.ShapeDtypeStruct((8, WIDTH), "float32")

    def last(variance: Any) -> Any:
        records = jinit.predict(apply, weights=lambda path: variance / WIDTH, backward=False)(shapes, x)
        return records["a"].output.second_moment[-1]

    wanted = (float(last(1.1)) - float(last(0.9))) / 0.2
    np.testing.assert_allclose(jax.grad(last)(1.0), wanted, rtol=0.05)
