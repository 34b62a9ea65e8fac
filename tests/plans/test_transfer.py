"""`from_pretrained`: every leaf is accounted for, in every kind of tree."""

from __future__ import annotations

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, serialization
from flax.core import freeze
from flax.traverse_util import flatten_dict

import jinit
from tests.zoo import array

X = array(2, 8)


class Net(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(3)(x)


def same(a, b):
    """Equal bit for bit, in structure, dtypes and metadata too."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_same_can_fail():
    for a, b in [(1, 2), (1, 1.0)]:
        with pytest.raises(AssertionError):
            same({"a": np.array([a])}, {"a": np.array([b])})
    with pytest.raises(AssertionError):
        same({"a": np.ones(1)}, {"b": np.ones(1)})


FORMS = {
    "itself": lambda v: v,
    "frozen": freeze,
    "msgpack": lambda v: serialization.msgpack_restore(serialization.to_bytes(v)),
    "flat with slashes": lambda v: flatten_dict(v, sep="/"),
    "flat with dots": lambda v: flatten_dict(v, sep="."),
    "numpy": lambda v: jax.tree.map(np.asarray, v),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("abstract", [False, True])
def test_round_trip_of_linen(form, abstract):
    drawn, trained = (Net().init(jax.random.key(i), X) for i in (0, 1))
    target = jax.eval_shape(Net().init, jax.random.key(0), X) if abstract else drawn
    params, transfer = jinit.from_pretrained(target, FORMS[form](trained))
    same(params, trained)
    assert transfer.counts == {"taken": 4}


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
        return nn.Dense(3, kernel_init=init, param_dtype=jnp.bfloat16)(x)


@pytest.mark.standard_promotion
@pytest.mark.parametrize(
    "form", [lambda v: v, nn.unbox, lambda v: serialization.msgpack_restore(serialization.to_bytes(v))]
)
def test_boxes_are_kept_and_add_nothing_to_a_name(form):
    drawn, trained = (Boxed().init(jax.random.key(i), X) for i in (0, 1))
    params, transfer = jinit.from_pretrained(drawn, form(trained))
    same(params, trained)
    assert params["params"]["Dense_0"]["kernel"].names == ("in", "out")
    assert transfer.leaves[1].path == "params/Dense_0/kernel"


def perceptron(seed):
    rngs = nnx.Rngs(seed)
    init = nnx.with_metadata(nnx.initializers.lecun_normal(), tag="mine")
    return nnx.Sequential(nnx.Linear(8, 4, kernel_init=init, rngs=rngs), nnx.Dropout(0.1, rngs=rngs))


@pytest.mark.parametrize("pure", [False, True])
def test_round_trip_of_nnx(pure):
    drawn, trained = nnx.state(perceptron(0)), nnx.state(perceptron(1))
    params, transfer = jinit.from_pretrained(drawn, nnx.to_pure_dict(trained) if pure else trained)
    assert jax.tree.structure(params) == jax.tree.structure(drawn)
    np.testing.assert_array_equal(
        params["layers"][0]["kernel"].get_value(), trained["layers"][0]["kernel"].get_value()
    )
    assert params["layers"][0]["kernel"].get_metadata() == drawn["layers"][0]["kernel"].get_metadata()
    key = params["layers"][1]["rngs"]["key"].get_value()
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    assert set(transfer.counts) == {"taken"}


def test_settings_that_are_no_arrays_are_held():
    params = {"act": jnp.tanh, "rate": 0.5, "w": jnp.zeros(2)}
    new, transfer = jinit.from_pretrained(params, {**params, "w": np.ones(2, np.float32)})
    assert (new["act"], new["rate"]) == (jnp.tanh, 0.5)
    assert transfer.counts == {"held": 2, "taken": 1}


def test_shardings_and_numpy_are_kept(cpus):
    mesh = jax.sharding.Mesh(np.array(cpus), ("d",))
    sharding = jax.NamedSharding(mesh, jax.P("d"))
    params = {
        "concrete": jax.device_put(jnp.zeros(8), sharding),
        "abstract": jax.ShapeDtypeStruct((8,), np.float32, sharding=sharding),
        "numpy": np.zeros(8),
    }
    source = np.arange(8.0)
    new, _ = jinit.from_pretrained(params, dict.fromkeys(params, source))
    source[:] = -1  # the result is a copy
    assert new["concrete"].sharding == new["abstract"].sharding == sharding
    assert isinstance(new["numpy"], np.ndarray)
    assert new["numpy"].dtype == np.float64
    for leaf in new.values():
        np.testing.assert_array_equal(leaf, np.arange(8))


def test_works_under_jit():
    params = {"a": jnp.zeros((3,)), "b": jnp.zeros((4,), jnp.bfloat16)}
    old = {"a": jnp.arange(5.0), "b": jnp.arange(2.0)}
    policy = [("a", "slice"), ("b", "tile")]
    run = lambda p, o: jinit.from_pretrained(p, o, mismatch=policy)[0]  # noqa: E731
    same(jax.jit(run)(params, old), run(params, old))


def test_rules_decide_leaf_by_leaf_and_the_rest_is_an_error():
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2), "c": jnp.zeros(2)}
    old = {"a": np.ones(3), "b": np.ones(3), "d": np.ones(1)}
    rules = {
        "missing": [("c", "keep")],
        "extra": [("d", "drop")],
        "mismatch": [("a", "slice"), ("*", "keep")],
    }
    new, transfer = jinit.from_pretrained(params, old, **rules)
    assert [leaf.action for leaf in transfer.leaves] == ["sliced", "kept", "kept", "dropped"]
    assert new["b"] is params["b"]
    assert new["c"] is params["c"]
    with pytest.raises(ValueError, match="unlike b"):
        jinit.from_pretrained(params, old, **{**rules, "mismatch": [("a", "slice")]})


@pytest.mark.parametrize(
    ("rename", "old"),
    [
        ({"": "params"}, {"body": {"w": 1}}),
        ({"model/params": "params"}, {"model": {"params": {"body": {"w": 1}}}}),
        ({"x": "y", "x/b": "params/body"}, {"x": {"b": {"w": 1}}}),
        (lambda path: path.replace("trunk", "body"), {"params": {"trunk": {"w": 1}}}),
    ],
)
def test_rename(rename, old):
    params = {"params": {"body": {"w": jnp.zeros((), np.int32)}}}
    new, transfer = jinit.from_pretrained(params, old, rename=rename)
    assert new["params"]["body"]["w"] == 1
    assert "from " in str(transfer)


def test_the_report_is_whole_json_and_fits():
    layers = {f"layer_{i}": {"kernel": jnp.zeros((4, 4)), "bias": jnp.zeros(4)} for i in range(12)}
    old = {**layers, "old": {f"head_{i}": jnp.zeros(1) for i in range(3)}}
    _, transfer = jinit.from_pretrained({**layers, "head": jnp.zeros(3)}, old, missing="keep", extra="drop")
    assert json.loads(json.dumps(transfer.to_dict())) == transfer.to_dict()
    assert transfer.counts == {"taken": 24, "kept": 1, "dropped": 3}
    text = str(transfer).splitlines()
    assert len(text) == 5
    assert any("layer_{0…11}/kernel ×12" in line for line in text)
    assert max(map(len, transfer.render(60).splitlines())) <= 60


def test_the_report_of_a_large_tree_is_short_and_shows_what_was_not_simply_taken():
    grid = {f"stage_{i}": {f"block_{j}": jnp.zeros(2) for j in range(3)} for i in range(4)}
    sizes = {f"p{'x' * i}": jnp.zeros(i + 1) for i in range(60)}
    _, transfer = jinit.from_pretrained(
        {**sizes, **grid, "z": jnp.zeros(1)}, {**sizes, **grid}, missing="keep"
    )
    text = str(transfer)
    assert "stage_{0…3}/block_{0…2} ×12" in str(jinit.from_pretrained(grid, grid)[1])
    assert "kept      z" in text
    assert "⋮ 22 more lines; all are in `.leaves`" in text
    assert len(text.splitlines()) <= 45


KERNEL = {"params": {"Dense_0": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}}
BARE = KERNEL["params"]
BAD = {
    "another model": (
        (KERNEL, {"params": {"Conv_0": {"kernel": np.zeros((3, 3, 2, 3)), "bias": np.zeros(3)}}}),
        r"0 of 2 that fit, 2 missing, 2 extra\.\n  missing params/Dense_0/bias: not in `pretrained`; the "
        r"closest there is params/Conv_0/bias(.|\n)*choose: missing=\"keep\"; extra=\"drop\"; or rules",
    ),
    "prefix missing": ((KERNEL, BARE), r"differ in a prefix: pass `rename=\{'': 'params'\}`"),
    "prefix extra": ((BARE, KERNEL), r"pass `rename=\{'params': ''\}`"),
    "shape": (
        (KERNEL, {"params": {"Dense_0": {"kernel": np.zeros((9, 3)), "bias": np.zeros(3)}}}),
        r"1 of 2 that fit, 1 unlike\.\n  unlike .*/kernel: float64 \(9, 3\) there, float32 \(2, 3\) here\n",
    ),
    "transposed": (
        (KERNEL, {"params": {"Dense_0": {"kernel": np.zeros((3, 2)), "bias": np.zeros(3)}}}),
        "another order: PyTorch",
    ),
    "one path twice": (
        ({"a/b": X, "a": {"b": X}}, {}),
        "`params` must differ; got 2 leaves with the path a/b",
    ),
    "one path twice there": ((KERNEL, {"a/b": X, "a": {"b": X}}), "in `pretrained` must differ"),
    "mixed keys": ((KERNEL, {0: X, "a": X}), "dict keys in `pretrained` must be of one type"),
    "abstract": (({"a": X}, {"a": jax.ShapeDtypeStruct((2, 8), np.float32)}), "Pass concrete arrays"),
    "no array": (({"a": X}, {"a": "text"}), "must be an array; got str at a"),
    "objects": (({"a": X}, {"a": np.array([None])}), "must be an array"),
    "file": ((KERNEL, "checkpoint.msgpack"), "Load the file first"),
    "None": (({"a": X}, {"a": None}), "1 missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_trees(case):
    args, text = BAD[case]
    with pytest.raises((TypeError, ValueError), match=text) as caught:
        jinit.from_pretrained(*args)
    assert str(caught.value).startswith("`jinit.from_pretrained(...)`: ")


OPTIONS = {
    "word": ({"missing": "skip"}, r'`missing` must be one of "error", "keep"; got missing=\'skip\''),
    "word of another": ({"extra": "keep"}, r'`extra` must be one of "error", "drop"'),
    "function": ({"missing": lambda v, leaf: v}, "`missing` must be one of"),
    "number": ({"mismatch": 3}, "`mismatch` must be one of its words or a list"),
    "no pairs": ({"mismatch": ["slice"]}, "or a list of"),
    "idle rule": ({"missing": [("*/kernl", "keep")]}, r"match a leaf; got '\*/kernl'"),
    "idle prefix": ({"rename": {"parms": ""}}, "must begin a path.*\n.*'params'"),
    "rename": ({"rename": 3}, "dict of prefixes or a function"),
    "rename returns": ({"rename": lambda path: None}, "must return a path"),
    "rename joins": (
        {"rename": lambda path: "same"},
        "2 leaves with the path same .from params/Dense_0/bias, ",
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_options(case):
    options, text = OPTIONS[case]
    with pytest.raises((TypeError, ValueError), match=text):
        jinit.from_pretrained(KERNEL, KERNEL, **options)


def test_an_abstract_leaf_cannot_be_kept():
    shapes = {"w": jax.ShapeDtypeStruct((3,), np.float32)}
    with pytest.raises(ValueError, match="missing w: to be kept, but `params` has only its shape"):
        jinit.from_pretrained(shapes, {}, missing="keep")
