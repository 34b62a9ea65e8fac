"""`layer_spectra`: against Jacobians of the pieces, written out."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jinit

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


def values(matrix) -> np.ndarray:
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


def same(found, matrix) -> bool:
    return bool(np.allclose(found, values(matrix), atol=1e-4 * values(matrix).max()))


def net(params, x):
    h = jnp.tanh(x @ params["a"] + params["bias"])
    h = h + jnp.tanh(h @ params["b"])
    return h @ params["c"]


def setting():
    shapes = {"a": (5, 6), "b": (6, 6), "c": (6, 3), "bias": (1, 6)}
    keys = jax.random.split(KEY, 4)
    params = {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}
    return params, jax.random.normal(jax.random.key(9), (2, 5))


def pieces(params, x):
    """Per site of `net`: its output as a function of the input, and the network's as a function of it."""

    def a(x):
        return x @ params["a"] + params["bias"][0]

    def after_a(u):
        h = jnp.tanh(u)
        return h @ params["b"]

    def out_of_a(u):
        h = jnp.tanh(u)
        return (h + jnp.tanh(h @ params["b"])) @ params["c"]

    u = a(x)
    v = after_a(u)
    h = jnp.tanh(u)
    to_output = {
        "a": jax.jacobian(out_of_a)(u),
        "b": jax.jacobian(lambda v: (h + jnp.tanh(v)) @ params["c"])(v),
        "c": jnp.eye(3),
    }
    from_input = {
        "a": jax.jacobian(a)(x),
        "b": jax.jacobian(lambda x: after_a(a(x)))(x),
        "c": jax.jacobian(lambda x: out_of_a(a(x)))(x),
    }
    between = {"a": from_input["a"], "b": jax.jacobian(after_a)(u), "c": to_output["b"]}
    return {"site_to_output": to_output, "input_to_site": from_input, "site_to_site": between}


@pytest.mark.parametrize("between", ["site_to_output", "input_to_site", "site_to_site"])
def test_against_pieces(between):
    params, x = setting()
    spectra = jinit.layer_spectra(net, between=between)(params, x)
    assert list(spectra) == ["a", "b", "c"]
    assert spectra.skipped == {}
    for i in range(2):
        for name, matrix in pieces(params, x[i])[between].items():
            assert same(spectra[name].singular_values[i], matrix)
    assert list(jax.jit(jinit.layer_spectra(net, between=between))(params, x)) == ["a", "b", "c"]


def test_same_can_fail():
    assert not same(np.array([2.0, 1.0]), np.diag([2.0, 1.01]))


def stack(params, x):
    h, _ = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["w"])
    return h @ params["out"]


def test_scan_gains_an_axis():
    params = {"w": jax.random.normal(KEY, (4, 5, 5)), "out": jax.random.normal(KEY, (5, 2))}
    x = jax.random.normal(jax.random.key(3), (3, 5))

    def unrolled(params, x):
        for k in range(4):
            x = jnp.tanh(x @ params[f"w{k}"])
        return x @ params["out"]

    flat = {"out": params["out"], **{f"w{k}": params["w"][k] for k in range(4)}}
    for between in ("site_to_output", "input_to_site"):
        rolled = jinit.layer_spectra(stack, between=between)(params, x)
        plain = jinit.layer_spectra(unrolled, between=between)(flat, x)
        assert rolled["w"].singular_values.shape[:2] == (3, 4)
        for k in range(4):
            expected = plain[f"w{k}"].singular_values
            assert np.allclose(rolled["w"].singular_values[:, k], expected, atol=1e-5 * float(expected.max()))
    skipped = jinit.layer_spectra(stack, between="site_to_site")(params, x).skipped
    assert "scan" in skipped["w"]
    assert skipped["out"].startswith("after w")


def test_tokens():
    model = nn.Sequential([nn.Embed(7, 4), nn.Dense(3)])
    tokens = jnp.array([[0, 3], [6, 6]])
    params = model.init(KEY, tokens)
    spectra = jinit.layer_spectra(model.apply)(params, tokens)
    kernel = np.kron(np.eye(2), np.asarray(params["params"]["layers_1"]["kernel"]))
    assert same(spectra["params/layers_0/embedding"].singular_values[0], kernel)
    inside = jinit.layer_spectra(model.apply, between="site_to_site")(params, tokens)
    assert list(inside) == ["params/layers_1/kernel"]
    assert "no derivative" in inside.skipped["params/layers_0/embedding"]
    with pytest.raises(ValueError, match="must be floating"):
        jinit.layer_spectra(model.apply, between="input_to_site")(params, tokens)


def test_what_is_not_seen_is_named():
    def apply(params, x):
        x = lax.cond(x.sum() > 0, lambda x: x @ params["a"], lambda x: x, x)
        return x @ params["b"]

    params = {"a": jnp.eye(3), "b": jnp.eye(3)}
    found = jinit.layer_spectra(apply)(params, jnp.ones((2, 3)))
    assert list(found) == ["b"]
    assert found.skipped == {"a": "inside a cond"}


def test_layers_of_no_width_are_named():
    params = {"w": jnp.ones((3, 0)), "v": jnp.ones((0, 2)), "u": jnp.ones((3, 2))}
    apply = lambda p, x: (x @ p["w"]) @ p["v"] + x @ p["u"]  # noqa: E731
    for between in ("site_to_output", "input_to_site", "site_to_site"):
        found = jinit.layer_spectra(apply, between=between)(params, jnp.ones((4, 3)))
        assert "u" in found
        assert found.skipped["w"] == "without entries in its output"


def test_inputs_of_no_width():
    params, x = {"v": jnp.ones((0, 3)), "u": jnp.ones((3, 2))}, jnp.ones((4, 0))
    apply = lambda p, x: x @ p["v"] @ p["u"]  # noqa: E731
    found = jinit.layer_spectra(apply, between="site_to_site")(params, x)
    assert list(found) == ["u"]
    assert found.skipped == {"v": "after an input without entries"}
    with pytest.raises(ValueError, match="the input must have entries"):
        jinit.layer_spectra(apply, between="input_to_site")(params, x)


def test_errors():
    with pytest.raises(ValueError, match="`between` must be one of 'site_to_output'"):
        jinit.layer_spectra(net, between="layers")
    with pytest.raises(ValueError, match=r"may have 16777216 entries at most; got \d+ at params"):
        jinit.layer_spectra(lambda w, x: x @ w)(jnp.ones((1, 5000)), jnp.ones((1, 1)))
    with pytest.raises(ValueError, match="mixes examples"):
        jinit.layer_spectra(lambda w, x: (x - x.mean(0)[None]) @ w)(jnp.eye(3), jnp.ones((2, 3)))
