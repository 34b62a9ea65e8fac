"""Fans that are given rather than read, and initializers taken apart into a template and numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

KEY = jax.random.key(3)
SCALED = [
    jinit.he_normal(),
    jinit.lecun_uniform(),
    jinit.glorot_normal(),
    jinit.variance_scaling(0.7, "fan_geo_avg", "normal", groups=4),
    jinit.for_activation("tanh", mode="fan_out"),
    jinit.fan_in_uniform(in_axis=0, out_axis=1),
    jinit.positive(jinit.he_uniform()),
]


def fan(init, fan_in, fan_out):
    init = getattr(init, "base", init)
    both = {"fan_avg": (fan_in + fan_out) / 2, "fan_geo_avg": (fan_in * fan_out) ** 0.5}
    return {"fan_in": fan_in, "fan_out": fan_out, **both}[init.mode]


@pytest.mark.parametrize("init", SCALED, ids=str)
@pytest.mark.parametrize("shape", [(40, 50), (2000,)])
def test_variance_goes_by_the_given_fans(init, shape):
    true = init.with_fans(12.5, 3.25)
    scale = getattr(init, "base", init).scale
    second_moment = true.variance(shape) + true.mean(shape) ** 2
    assert second_moment == pytest.approx(scale / fan(init, 12.5, 3.25), rel=1e-12)
    assert eval(repr(true)) == true != init
    assert true.with_fans(1.0, 1.0).with_fans(12.5, 3.25) == true
    drawn = np.asarray(true(KEY, shape, jnp.float32), np.float64)
    spread = np.sqrt(2 / drawn.size) * 3  # the fourth moment of each law is at most that of a normal, 3
    assert abs((drawn**2).mean() / second_moment - 1) < 5 * spread


@pytest.mark.parametrize("init", SCALED, ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
def test_given_the_fans_of_the_shape_it_draws_the_same(init, dtype):
    if "positive" in init.maker and dtype == jnp.complex64:
        pytest.skip("positive is real")
    fans = jinit.compute_fans((24, 16))
    groups = getattr(getattr(init, "base", init), "groups", 1)
    fans = (24.0, 16.0 / groups) if "in_axis=0" not in repr(init) else fans
    same = init.with_fans(*fans)(KEY, (24, 16), dtype)
    np.testing.assert_array_equal(same, init(KEY, (24, 16), dtype))


def test_initializers_that_read_no_fans_stay_what_they_are():
    for init in (jinit.normal(), jinit.orthogonal(), jinit.zeros, jinit.positive(jinit.normal())):
        assert init.with_fans(3.0, 4.0) == init


def test_fans_are_checked():
    with pytest.raises(ValueError, match=r"`jinit.he_normal\(...\)`: `fan_in` must be positive"):
        jinit.he_normal().with_fans(0.0, 4.0)
    with pytest.raises(ValueError, match=r"`mode='fan_avg'` needs a fan-out"):
        jinit.glorot_normal().with_fans(3.0)(KEY, (3, 4))
    assert jinit.he_normal().with_fans(8.0).variance((5,)) == 0.25
    assert jinit.glorot_normal().variance((0, 4)) == 0.0


PARTED = [
    (jinit.he_normal(negative_slope=0.3, mode="fan_out"), (60, 50)),
    (jinit.lecun_uniform(batch_axis=0), (4, 25, 30)),
    (jinit.normal(0.3, mean=0.5), (60, 50)),
    (jinit.uniform(minval=-0.2, maxval=0.7), (60, 50)),
    (jinit.truncated_normal(0.3, lower=-0.5, upper=1.0), (60, 50)),
    (jinit.orthogonal(1.5, preserve="second_moment"), (10, 30)),
    (jinit.delta_orthogonal(1.5), (3, 8, 12)),
    (jinit.sparse(nonzeros=15), (60, 50)),
    (jinit.positive(jinit.glorot_uniform()), (60, 50)),
    (jinit.identity(1.5), (6, 5)),
    (jinit.constant(((1.0,), (2.5,))), (2, 5)),
]


@pytest.mark.parametrize(("init", "shape"), PARTED, ids=[str(init) for init, _ in PARTED])
@pytest.mark.parametrize("dtype", [jnp.float32])
def test_template_and_numbers_draw_the_same(init, shape, dtype):
    """Not to the bit: compiled as one, `sqrt(2) * erf_inv(u) * scale` may be multiplied in another order."""
    template, numbers = init.parted(shape)
    numbers = tuple(np.float32(number) for number in numbers)
    drawn = jax.jit(lambda key, numbers: template.joined(numbers)(key, shape, dtype))(KEY, numbers)
    expected = init(KEY, shape, dtype)
    hash(template)
    assert drawn.dtype == dtype
    drawn, expected = np.asarray(drawn, np.float64), np.asarray(expected, np.float64)
    np.testing.assert_allclose(
        drawn, expected, rtol=0, atol=4 * float(jnp.finfo(dtype).eps) * abs(expected).max()
    )


def test_a_template_holds_no_scale():
    families = [
        [jinit.he_normal(), jinit.glorot_normal(), jinit.lecun_normal().with_fans(5.5, 1.0)],
        [jinit.normal(0.1), jinit.normal(3.0)],
        [jinit.orthogonal(2.0), jinit.orthogonal(0.1)],
        [jinit.uniform(0.1), jinit.uniform(2.0)],
        [jinit.truncated_normal(0.1), jinit.truncated_normal(2.0)],
        [jinit.delta_orthogonal(0.5), jinit.delta_orthogonal()],
        [jinit.identity(0.5), jinit.identity()],
        [jinit.positive(jinit.he_normal()), jinit.positive(jinit.lecun_normal())],
    ]
    for family in families:
        assert len({init.parted((3, 8, 8) if "delta" in repr(init) else (8, 8))[0] for init in family}) == 1
    assert jinit.normal().parted((8, 8))[0] != jinit.normal(mean=1.0).parted((8, 8))[0]


def test_layout():
    init = jinit.orthogonal(2.0, 0, batch_axis=2).in_default_axes()
    assert (init.column_axis, init.batch_axis, init.scale) == (-1, (), 2.0)
    assert jinit.sparse(0.5, in_axis=1, out_axis=0).in_default_axes() == jinit.sparse(0.5)
    assert jinit.positive(jinit.orthogonal(column_axis=0)).in_default_axes() == jinit.positive(
        jinit.orthogonal()
    )
    reads = {init: init.reads for init in (jinit.zeros, jinit.he_normal(), jinit.dirac())}
    assert list(reads.values()) == ["nothing", "fans", "layout"]
