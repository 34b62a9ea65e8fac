"""Kinks and jumps are found where they are, and nowhere else."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinit.initializers._quadrature import NoExpectationError
from jinit.meanfield.panels import find_panels

CASES = {
    "tanh": (jnp.tanh, [], []),
    "gelu": (functools.partial(jax.nn.gelu, approximate=False), [], []),
    "identity": (lambda x: x, [], []),
    "relu": (jax.nn.relu, [0.0], []),
    "hard_tanh": (jax.nn.hard_tanh, [-1.0, 1.0], []),
    "third": (lambda x: jnp.maximum(x, 1 / 3), [1 / 3], []),
    "narrow": (lambda x: jnp.clip(x, -0.01, 0.01), [-0.01, 0.01], []),
    "second derivative": (jax.nn.elu, [0.0], []),
    "step": (lambda x: jnp.where(x > math.pi / 10, 1.0, 0.0), [math.pi / 10], [math.pi / 10]),
    "boolean": (lambda x: x > 0.3, [0.3], [0.3]),
    "far": (lambda x: jnp.where(x < 700.0, x, 700.0), [700.0], []),
}


@pytest.mark.parametrize("name", CASES)
def test_kinks(name):
    function, kinks, jumps = CASES[name]
    panels = find_panels(function)
    np.testing.assert_allclose(panels.kinks, kinks, rtol=1e-7)
    np.testing.assert_allclose(panels.jumps, jumps, rtol=1e-12)
    assert panels.reach == math.inf
    assert len(panels.edges) < 16


def test_smooth_functions_need_few_panels():
    assert find_panels(lambda x: x**3).edges == ()
    assert find_panels(jax.nn.relu).edges == (0.0,)


def test_oscillation_ends_the_reach():
    assert 60 < find_panels(jnp.sin).reach < 1000
    with pytest.raises(NoExpectationError, match="varies too fast"):
        find_panels(lambda x: jnp.sin(1e7 * x))


def test_float32_inside_is_noise_and_not_kinks():
    assert find_panels(lambda x: jnp.tanh(x.astype(jnp.float32)).astype(x.dtype)).kinks == ()
