"""What is wrong is said, before anything is traced."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit.meanfield as mf

NONE = {"weight_variance": 1.0, "bias_variance": 0.0}
VALUES = [
    (
        {"weight_variance": -1.0},
        "`weight_variance` must be finite and not negative; got weight_variance=-1.0.",
    ),
    ({"bias_variance": -0.1}, "Variances are squares: pass σ², not σ."),
    ({"q": np.array([1.0, -2.0])}, "`q` must be finite and not negative; got q=-2.0"),
    ({"q": np.nan}, "got q=nan"),
    ({"c": 1.5}, "`c` is a correlation, which lies in [-1, 1]; got c=1.5"),
    ({"q": np.ones(2), "weight_variance": np.ones(3)}, "the arguments must broadcast"),
    ({"activation": jax.nn.softmax}, "must be elementwise, but its value at one entry depends"),
    ({"activation": jnp.sum}, "must be elementwise, but it turns an array of shape"),
    ({"activation": jnp.log}, "must be integrable, but it is not finite"),
    ({"activation": lambda x: jnp.sin(1e9 * x)}, "it varies too fast"),
    (
        {"activation": lambda x, y: x},
        "must be elementwise, but called with one array of shape (1088,) it raises",
    ),
    ({"activation": lambda x: x + jnp.ones(3)}, "it raises TypeError: add got incompatible shapes"),
    ({"activation": lambda x: x if x > 0 else 0 * x}, "it raises ValueError: The truth value"),
    (
        {"activation": lambda x: x[:3]},
        "must be elementwise, but it turns an array of shape (1088,) into one of",
    ),
    ({"activation": "rellu"}, "Did you mean 'relu'"),
]
TYPES = [
    ({"activation": np.tanh}, "`activation` must be made of JAX's functions"),
    ({"activation": lambda x: np.maximum(x, 0)}, "Such as `jnp.tanh` in place of `np.tanh`."),
    ({"activation": 3}, "`activation` must be an elementwise JAX function or the name of one"),
    ({"q": "1"}, "`q` must be a real number or an array of them"),
    ({"q": 1j}, "`q` must be a real number or an array of them"),
    ({"bias_variance": None}, "`bias_variance` must be a real number"),
]


def call(activation=jnp.tanh, q=1.0, c=0.5, **variances):
    return mf.correlation_map(activation, q, c, **{**NONE, **variances})


@pytest.mark.parametrize(("arguments", "text"), VALUES)
def test_values(arguments, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        call(**arguments)


@pytest.mark.parametrize(("arguments", "text"), TYPES)
def test_types(arguments, text):
    with pytest.raises(TypeError, match=re.escape(text)):
        call(**arguments)


def test_depth():
    with pytest.raises(ValueError, match="`depth` must not be negative"):
        mf.trajectory("relu", depth=-1, **NONE)
    with pytest.raises(TypeError, match="`depth` must be an integer"):
        mf.trajectory("relu", depth=2.0, **NONE)


def test_a_traced_closure():
    with pytest.raises(ValueError, match="it gives a traced value, since it closes over one"):
        jax.grad(lambda a: mf.variance_map(lambda x: jnp.tanh(a * x), 1.0, **NONE))(1.0)


def test_any_number_will_do():
    for q in (1, np.float32(1), np.int64(1), jnp.ones(()), jnp.bfloat16(1)):
        assert mf.variance_map("tanh", q, **NONE).dtype == jnp.float32


def test_words_and_pictures_are_not_made_of_traced_values():
    def phase(weight_variance):
        return mf.fixed_point("tanh", weight_variance=weight_variance, bias_variance=0.1).phase

    with pytest.raises(
        TypeError, match=r"`FixedPoint.phase`: values must be concrete, not traced; got the tracer"
    ):
        jax.jit(phase)(1.0)

    def picture(grid):
        return mf.phase_diagram("tanh", weight_variance=grid, bias_variance=grid).plot()

    with pytest.raises(
        TypeError, match=r"`PhaseDiagram.plot\(\)`: values must be concrete(.|\n)*ask for it outside"
    ):
        jax.jit(picture)(jnp.array([1.0, 2.0]))
