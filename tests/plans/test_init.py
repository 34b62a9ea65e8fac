"""`jinit.init` on models of linen, nnx and plain functions."""

from __future__ import annotations

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jinit

KEY = jax.random.key(2)
X = jax.ShapeDtypeStruct((2, 12), jnp.float32)
PLAN = jinit.plan([("*/kernel", jinit.he_normal()), ("*", jinit.zeros)])


def mlp(params, x):
    for name in sorted(params):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"][None])
    return x


def shapes(*names, width=12):
    layer = {
        "kernel": jax.ShapeDtypeStruct((12, width), "float32"),
        "bias": jax.ShapeDtypeStruct((12,), "float32"),
    }
    return dict.fromkeys(names, layer)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_adding_a_layer_changes_no_other():
    draw = jinit.init(mlp, PLAN)
    three = draw(KEY, shapes("a", "b", "c"), X)
    same(draw(KEY, shapes("c", "a"), X), {name: three[name] for name in ("a", "c")})
    assert abs(three["a"]["kernel"] - three["b"]["kernel"]).max() > 0
    assert three["a"]["bias"].max() == 0


@pytest.mark.usefixtures("on_cpu")
def test_jit_vmap_populations_and_concrete_parameters():
    draw, abstract = jinit.init(mlp, PLAN), shapes("a", "b")
    params = draw(KEY, abstract, X)
    same(params, jax.jit(lambda key: draw(key, abstract, X))(KEY))
    same(params, jax.jit(draw)(KEY, params, jnp.ones(X.shape)))
    same(params, draw(KEY, jax.tree.map(jnp.ones_like, params), jnp.ones(X.shape)))
    same(params, jax.jit(lambda: draw(KEY, abstract, X))())
    keys = jax.random.split(KEY, 3)
    members = draw(keys, abstract, X)
    same(members, jax.vmap(lambda key: draw(key, abstract, X))(keys))
    same(jax.tree.map(lambda leaf: leaf[1], members), draw(keys[1], abstract, X))
    same(members, draw(jax.random.key_data(keys), abstract, X))


def test_traced_scale():
    def scaled(scale):
        return jinit.init(mlp, jinit.plan([("*/kernel", jinit.normal(scale)), ("*", jinit.zeros)]))(
            KEY, shapes("a"), X
        )

    one, two = jax.jit(scaled)(1.0), jax.jit(scaled)(2.0)
    same(jax.tree.map(lambda leaf: 2 * leaf, one), two)
    slope = jax.jacfwd(scaled)(3.0)["a"]["kernel"]
    np.testing.assert_allclose(slope, one["a"]["kernel"], rtol=1e-6)


class Net(nn.Module):
    """Heads, a grouped and a strided transposed convolution, normalisation, boxes."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3,), feature_group_count=4)(x)
        x = nn.ConvTranspose(8, (4,), strides=(2,))(x)
        x = nn.BatchNorm(use_running_average=True)(x)
        x = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=16)(x, x)
        boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        return nn.Dense(5, kernel_init=boxed, param_dtype=jnp.bfloat16)(x)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        logical = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
        return nn.Dense(8, kernel_init=logical)(x), None


class Stacked(nn.Module):
    length: int

    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.length,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scan(name="layers")(x, None)[0]


@pytest.mark.standard_promotion
def test_linen():
    model, x = Net(), jax.ShapeDtypeStruct((2, 6, 8), jnp.float32)
    abstract = jax.eval_shape(model.init, KEY, x)
    law = jinit.variance_scaling(1.0, "fan_in", "normal")
    plan = jinit.plan(
        [("*/kernel", law), ("*/scale", jinit.ones), ("batch_stats/*/var", jinit.ones), ("*", jinit.zeros)]
    )
    params = jinit.init(model.apply, plan)(KEY, abstract, x)
    assert jax.tree.structure(params) == jax.tree.structure(abstract)
    assert params["params"]["Dense_0"]["kernel"].names == (None, "model")
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(abstract), strict=True)
    assert all((new.shape, new.dtype) == (old.shape, old.dtype) for new, old in pairs)
    assert params["batch_stats"]["BatchNorm_0"]["var"].min() == 1
    flat = {"/".join(str(k.key) for k in path[:3]): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    for name, fan in (("params/Conv_0/kernel", 6), ("params/ConvTranspose_0/kernel", 16)):
        weights = np.asarray(flat[name], np.float64)
        assert abs((weights**2).mean() * fan - 1) < 5 * math.sqrt(2 / weights.size), name
    assert jnp.isfinite(model.apply(params, jnp.ones(x.shape))).all()


def test_a_longer_stack_keeps_its_first_layers():
    def draw(length):
        model, x = Stacked(length), jax.ShapeDtypeStruct((2, 8), jnp.float32)
        abstract = jax.eval_shape(model.init, KEY, x)
        return abstract, jinit.init(model.apply, PLAN)(KEY, abstract, x)

    abstract, short = draw(2)
    kernel = draw(4)[1]["params"]["layers"]["Dense_0"]["kernel"]
    assert jax.tree.structure(short) == jax.tree.structure(abstract)
    assert isinstance(kernel, nn.LogicallyPartitioned)
    same(kernel.value[:2], short["params"]["layers"]["Dense_0"]["kernel"].value)
    assert abs(kernel.value[0] - kernel.value[3]).max() > 0


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(6, 6, rngs=rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        boxed = nnx.with_metadata(nnx.initializers.lecun_normal(), note="head")
        self.head = nnx.Linear(6, 3, kernel_init=boxed, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(self.norm(x))


@pytest.mark.parametrize("abstract", [False, True])
def test_nnx(abstract):
    model = nnx.eval_shape(lambda: Plain(nnx.Rngs(0))) if abstract else Plain(nnx.Rngs(0))
    apply, params = jinit.functional(model)
    plan = jinit.plan([("*/kernel", jinit.he_normal()), ("*/scale", jinit.ones), ("*", jinit.zeros)])
    drawn = jinit.init(apply, plan)(KEY, params, jax.ShapeDtypeStruct((2, 6), jnp.float32))
    assert jax.tree.structure(drawn) == jax.tree.structure(params)
    assert drawn["head"]["kernel"].get_metadata()["note"] == "head"
    assert drawn["head"]["kernel"].get_metadata() == params["head"]["kernel"].get_metadata()
    nnx.update(model, drawn)
    assert jnp.isfinite(model(jnp.ones((2, 6)))).all()


def test_leaves_that_are_no_parameters():
    def apply(params, x):
        noise = jax.random.normal(params["key"], x.shape)
        return x @ params["w"] * params["heads"] + noise + params["steps"].astype(x.dtype)

    params = {
        "w": jnp.ones((12, 3)),
        "heads": 2,
        "key": jax.random.key(7),
        "steps": jnp.array(3),
        "unused": jnp.ones(2),
    }
    params["w"] = jnp.ones((12, 12))
    plan = jinit.plan([("w", jinit.he_normal()), (jinit.role("bias", "other", "unused"), jinit.zeros)])
    drawn = jinit.init(apply, plan)(KEY, params, X)
    assert (drawn["heads"], drawn["steps"].dtype, int(drawn["steps"])) == (2, jnp.int32, 0)
    same(jax.random.key_data(drawn["key"]), jax.random.key_data(params["key"]))
    members = jinit.init(apply, plan)(jax.random.split(KEY, 2), params, X)
    assert (members["key"].shape, members["steps"].shape) == ((2,), (2,))
    params["key"] = jax.eval_shape(lambda: jax.random.key(7))
    with pytest.raises(ValueError, match=r"must be concrete.*an abstract one at 'key'"):
        jinit.init(apply, plan)(KEY, params, X)


def test_bad_input():
    with pytest.raises(TypeError, match=r"`jinit.init\(...\)`: `plan` must be a plan; got plan=list"):
        jinit.init(mlp, [("*", jinit.zeros)])
    with pytest.raises(TypeError, match="`apply` must be a function"):
        jinit.init(nn.Dense(3), PLAN)
    draw = jinit.init(mlp, PLAN)
    with pytest.raises(TypeError, match=r"`jinit.init\(...\)`: `key` must be a JAX random key"):
        draw(0, shapes("a"), X)
    leaf = jax.ShapeDtypeStruct((12, 12), "float32")
    with pytest.raises(ValueError, match="more than one leaf at 'a/b'"):
        jinit.init(lambda params, x: x, PLAN)(KEY, {"a/b": leaf, "a": {"b": leaf}}, X)
    with pytest.raises(ValueError, match=r"`jinit.init\(...\)`: every rule must take a parameter"):
        jinit.init(mlp, jinit.plan([("*", jinit.ones), ("*/bias", jinit.zeros)]))(KEY, shapes("a"), X)
    with pytest.raises(ValueError, match="`out_shardings` must be a sharding, or a tree"):
        jinit.init(mlp, PLAN, out_shardings={"b": None})(KEY, shapes("a"), X)


@pytest.fixture
def mesh(cpus):
    if len(cpus) < 8:
        pytest.skip("needs eight CPU devices")
    return jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2, devices=cpus)


@pytest.mark.usefixtures("on_cpu")
def test_out_shardings(mesh):
    whole = jinit.init(mlp, PLAN)(KEY, shapes("a", "b"), X)
    rows, columns = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in (("y",), (None, "y")))
    for given in (rows, {"a": rows, "b": {"kernel": rows, "bias": None}}):
        params = jinit.init(mlp, PLAN, out_shardings=given)(KEY, shapes("a", "b"), X)
        same(params, whole)
        assert params["b"]["kernel"].sharding.is_equivalent_to(rows, 2)
    abstract = shapes("a", "b")
    abstract["a"] = {**abstract["a"], "kernel": jax.ShapeDtypeStruct((12, 12), "float32", sharding=columns)}
    params = jinit.init(mlp, PLAN)(KEY, abstract, X)
    same(params, whole)
    assert params["a"]["kernel"].sharding.is_equivalent_to(columns, 2)
    again = jinit.init(mlp, PLAN)(KEY, params, X)
    assert again["a"]["kernel"].sharding.is_equivalent_to(columns, 2)
    members = jinit.init(mlp, PLAN)(jax.random.split(KEY, 2), abstract, X)["a"]["kernel"]
    assert members.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(None, None, "y")), 3)
    spread = NamedSharding(mesh, PartitionSpec("x"))
    members = jinit.init(mlp, PLAN, out_shardings=spread)(jax.random.split(KEY, 2), shapes("a", "b"), X)
    assert members["b"]["bias"].sharding.is_equivalent_to(spread, 2)


@pytest.mark.usefixtures("on_cpu")
def test_specs_of_the_mesh_in_use_and_boxes(mesh, cpus):
    model = nn.Dense(8, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), (None, "y")))
    abstract = jax.eval_shape(model.init, KEY, X)
    whole = jinit.init(model.apply, PLAN)(KEY, abstract, X)
    placed = nn.get_sharding(abstract, mesh)
    params = jinit.init(model.apply, PLAN, out_shardings=placed)(KEY, abstract, X)
    where = NamedSharding(mesh, PartitionSpec(None, "y"))
    assert params["params"]["kernel"].value.sharding.is_equivalent_to(where, 2)
    same(params, whole)
    spec = {"a": {"kernel": PartitionSpec(None, "y"), "bias": None}}
    for kind in (AxisType.Auto, AxisType.Explicit):
        with jax.set_mesh(jax.make_mesh((2, 4), ("x", "y"), axis_types=(kind,) * 2, devices=cpus)):
            params = jinit.init(mlp, PLAN, out_shardings=spec)(KEY, shapes("a"), X)
            assert params["a"]["kernel"].sharding.spec == PartitionSpec(None, "y")


class Normalised(nnx.Module):
    """Batch statistics and a random stream beside the parameters."""

    def __init__(self, rngs):
        self.first = nnx.Linear(8, 32, rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(32, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


def test_an_abstract_nnx_model_with_other_state():
    x = jnp.ones((4, 8))
    plan = jinit.plan([("*/kernel", jinit.he_normal()), ("*/bias", jinit.zeros), ("*/scale", jinit.ones)])
    apply, shapes = jinit.functional(nnx.eval_shape(lambda: Normalised(nnx.Rngs(0))))
    params = jinit.init(apply, plan)(jax.random.key(1), shapes, x)
    concrete_apply, concrete = jinit.functional(Normalised(nnx.Rngs(0)))
    chex.assert_trees_all_equal(params, jinit.init(concrete_apply, plan)(jax.random.key(1), concrete, x))
    assert concrete_apply(params, x).shape == (4, 3)
    with pytest.raises(Exception, match="can be audited and initialized, not run"):
        jax.block_until_ready(apply(params, x))


def test_layers_of_no_width():
    params = {"w": jnp.ones((6, 0)), "v": jnp.ones((0, 3)), "u": jnp.ones((6, 3))}
    apply = lambda p, x: (x @ p["w"]) @ p["v"] + x @ p["u"]  # noqa: E731
    for initializer in (jinit.lecun_normal(), jinit.glorot_uniform(), jinit.orthogonal()):
        new = jinit.init(apply, jinit.plan([("*", initializer)]))(jax.random.key(0), params, jnp.ones((2, 6)))
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, params)
