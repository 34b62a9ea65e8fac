"""Tables of initializers that the tests run over."""

from __future__ import annotations

import jax

import jinit

NAMES_OF_JAX = (
    "constant",
    "delta_orthogonal",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
)
PEERS = {name: (getattr(jinit, name), getattr(jax.nn.initializers, name)) for name in NAMES_OF_JAX}

# name of the maker, arguments, shape: the same call is made to JAX; few shapes, to compile little
SHAPE = (24, 3, 8, 2)
SHARED = [
    ("constant", (0.1,), SHAPE),
    ("uniform", (), SHAPE),
    ("uniform", (0.3,), (7,)),
    ("normal", (), SHAPE),
    ("normal", (0.7,), (7,)),
    ("truncated_normal", (), SHAPE),
    ("truncated_normal", (0.7, None, -1.0, 3.0), SHAPE),
    *[
        ("variance_scaling", (0.3, mode, distribution, *axes), SHAPE)
        for mode in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
        for distribution in ("truncated_normal", "normal", "uniform")
        for axes in ((), (0, (1, 2), 3))
    ],
    *[
        (f"{family}_{distribution}", axes, SHAPE)
        for family in ("lecun", "glorot", "xavier", "he", "kaiming")
        for distribution in ("normal", "uniform")
        for axes in ((), (-3, (0, 3)), (-2, -1, 0))
    ],
    ("orthogonal", (), (16, 16)),
    ("orthogonal", (1.5, 0), SHAPE),
    ("orthogonal", (0.7, 1), (3, 5, 2)),
    ("delta_orthogonal", (), (3, 8, 8)),
    ("delta_orthogonal", (1.5,), (3, 5, 8, 12)),
    ("delta_orthogonal", (1.5, -2), (1, 3, 3, 8, 12)),
]
SHARED_IDS = [f"{name}{arguments}{shape}" for name, arguments, shape in SHARED]
REAL_ONLY = ("uniform", "truncated_normal")

# one of everything, with a shape it can fill: entries as (initializer, shape)
RANDOM = [
    (jinit.uniform(0.3), (60, 50)),
    (jinit.uniform(minval=-0.2, maxval=0.7), (60, 50)),
    (jinit.normal(0.3), (60, 50)),
    (jinit.normal(0.3, mean=0.5), (60, 50)),
    (jinit.truncated_normal(0.3), (60, 50)),
    (jinit.truncated_normal(0.3, lower=0.5, upper=4.0, mean=-1.0), (60, 50)),
    (jinit.truncated_normal(0.3, lower=-0.5, upper=1.0, after_truncation=True), (60, 50)),
    (jinit.variance_scaling(0.7, "fan_geo_avg", "normal"), (60, 50)),
    (jinit.variance_scaling(0.7, "fan_out", "uniform", groups=5), (3, 12, 50)),
    (jinit.lecun_normal(), (60, 50)),
    (jinit.lecun_uniform(batch_axis=0), (4, 25, 30)),
    (jinit.glorot_normal(0, (1, 2)), (60, 5, 10)),
    (jinit.glorot_uniform(), (60, 50)),
    (jinit.he_normal(negative_slope=0.3, mode="fan_out"), (60, 50)),
    (jinit.he_uniform(), (60, 50)),
    (jinit.fan_in_uniform(), (60, 50)),
    (jinit.fan_in_uniform(fan=10), (3000,)),
    (jinit.for_activation("tanh"), (60, 50)),
    (jinit.for_activation("leaky_relu", "fan_avg", "uniform"), (60, 50)),
    (jinit.orthogonal(1.5), (60, 50)),
    (jinit.orthogonal(), (2, 1500)),
    (jinit.orthogonal(1.5, preserve="second_moment"), (30, 100)),
    (jinit.orthogonal(0.5, 1, batch_axis=(0, 3)), (3, 20, 30, 2)),
    (jinit.delta_orthogonal(1.5), (3, 32, 40)),
    (jinit.delta_orthogonal(preserve="second_moment"), (3, 1, 40, 32)),
    (jinit.sparse(0.8), (60, 50)),
    (jinit.sparse(nonzeros=15, stddev=1.0), (60, 50)),
    (jinit.sparse(nonzeros=4, in_axis=(1, 2), out_axis=0, batch_axis=3), (50, 5, 6, 2)),
    (jinit.positive(jinit.glorot_uniform()), (60, 50)),
    (jinit.positive(jinit.normal(0.3, mean=0.1)), (60, 50)),
    (jinit.positive(jinit.truncated_normal(0.3, lower=-1.0, upper=3.0)), (60, 50)),
    (jinit.positive(jinit.orthogonal()), (60, 50)),
    (jinit.positive(jinit.uniform(minval=-0.2, maxval=0.7)), (60, 50)),
]
FIXED = [
    (jinit.zeros, (6, 5)),
    (jinit.ones, (6, 5)),
    (jinit.constant(-0.3), (6, 5)),
    (jinit.constant(((1.0,), (2.5,))), (2, 5)),
    (jinit.identity(1.5), (6, 5)),
    (jinit.identity(batch_axis=1), (6, 3, 5)),
    (jinit.dirac(0.5), (3, 3, 6, 5)),
    (jinit.dirac(groups=2), (3, 3, 6)),
]
ALL = RANDOM + FIXED
NAMES = [f"{init}{shape}" for init, shape in ALL]
