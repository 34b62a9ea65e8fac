"""Moments of one kind compared with moments of another, and with NumPy."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jinit.signals.moments import Moments

FIELDS = ("input", "output", "cotangent", "weight", "weight_gradient")


def loss(outputs: Any) -> Any:
    return jnp.mean(jnp.sin(outputs) * outputs)


def assert_moments(moments: Moments, values: Any, name: str = "") -> None:
    """The moments are those of these entries, computed in float64 by NumPy."""
    values = np.asarray(values)
    kind = np.complex128 if np.iscomplexobj(values) else np.float64
    values = values.astype(kind)
    assert float(moments.count) == values.size, name
    scale = np.sqrt(np.mean(np.abs(values) ** 2)) + 1e-30
    np.testing.assert_allclose(moments.mean, values.mean(), atol=2e-5 * scale, err_msg=name)
    np.testing.assert_allclose(moments.second_moment, np.mean(np.abs(values) ** 2), rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(moments.variance, values.var(), atol=2e-4 * scale**2, err_msg=name)
    np.testing.assert_allclose(moments.zero_fraction, np.mean(values == 0), atol=1e-6, err_msg=name)
    assert float(moments.nonfinite_count) == 0, name


def assert_equal_records(one: Any, other: Any, name: str) -> None:
    for field in FIELDS:
        a, b = getattr(one, field), getattr(other, field)
        scale = np.max(np.sqrt(np.asarray(b.second_moment)))
        np.testing.assert_allclose(a.count, b.count, err_msg=f"{name} {field}")
        np.testing.assert_allclose(a.mean, b.mean, atol=2e-5 * scale, err_msg=f"{name} {field}")
        np.testing.assert_allclose(a.second_moment, b.second_moment, rtol=2e-4, err_msg=f"{name} {field}")
        np.testing.assert_allclose(a.zero_fraction, b.zero_fraction, atol=1e-6, err_msg=f"{name} {field}")
