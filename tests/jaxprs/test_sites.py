"""Every weight of every model in the zoo is found, by name and in program order, and nothing else is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import jinit
from jinit.jaxprs.sites import Sites, find_sites
from jinit.jaxprs.tracing import param_paths, split, trace
from tests.zoo import ZOO, array

everyone = pytest.mark.parametrize("name", ZOO)


def sites_of(apply, params, *inputs, **kwargs) -> Sites:
    signature, arrays = split(params, inputs, kwargs)
    return find_sites(trace(apply, signature, arrays, caller="test"))


@everyone
def test_sites_and_what_is_no_site(name):
    given = ZOO[name]
    apply, params, inputs, kwargs = given.make()
    with given.promotion():
        found = sites_of(apply, params, *inputs, **kwargs)
    assert tuple(n for site in found.sites for n in site.names) == given.sites
    assert frozenset(found.not_followed) == given.not_followed
    assert all(found.not_followed.values())
    assert frozenset(found.unused) == given.unused


@everyone
def test_every_kernel_is_named(name):
    """A leaf called kernel, embedding, w or weight has a site, or a reason why not."""
    _, params, _, _ = ZOO[name].make()
    signature, arrays = split(params, (), {})
    paths = param_paths(signature, arrays)
    named = {n.split("#")[0] for n in ZOO[name].sites} | ZOO[name].not_followed | ZOO[name].unused
    for path in paths:
        if path.startswith("batch_stats"):
            continue
        if path.split("/")[-1] in ("kernel", "embedding", "w", "weight", "weight_ih", "weight_hh"):
            assert path in named


B, C = array(5, seed=1), array(5, seed=2)
W = {"w": array(4, 5), "b": B, "c": C}
X = array(3, 4, seed=3)


def _rows(b):
    return jnp.broadcast_to(b, (3, 5))


@jax.jit
def _added(y, b):
    return y + b


# What stands between a contraction and the end of the model, and the equation whose result is the output.
ENDINGS = {
    "no bias": (lambda y, b, c: jnp.tanh(y), "dot_general"),
    "bias": (lambda y, b, c: jnp.tanh(y + b[None]), "add"),
    "bias on the left": (lambda y, b, c: jnp.tanh(b[None] + y), "add"),
    "bias taken away": (lambda y, b, c: jnp.tanh(y - b[None]), "sub"),
    "taken away from a parameter": (lambda y, b, c: jnp.tanh(b[None] - y), "dot_general"),
    "bias laid out": (lambda y, b, c: jnp.tanh(y + _rows(b)), "add"),
    "bias in jit": (lambda y, b, c: jnp.tanh(_added(y, _rows(b))), "add"),
    "after a reshape": (lambda y, b, c: jnp.tanh(y.reshape(3, 1, 5) + b[None, None]), "add"),
    "after a transpose": (lambda y, b, c: jnp.tanh(y.T + b[:, None]), "add"),
    "after a cast": (lambda y, b, c: jnp.tanh(y.astype(jnp.bfloat16) + b.astype(jnp.bfloat16)[None]), "add"),
    "bias alone at the end": (lambda y, b, c: y + b[None], "add"),
    "read before its bias": (lambda y, b, c: y * (y + b[None]), "dot_general"),
    "is an output before its bias": (lambda y, b, c: (y, y + b[None]), "dot_general"),
    "a part of it": (lambda y, b, c: jnp.tanh(y[:, :2] + b[None, :2]), "dot_general"),
    "a scale first": (lambda y, b, c: jnp.tanh(y * c[None] + b[None]), "dot_general"),
    "a signal added": (lambda y, b, c: jnp.tanh(y + y**2), "dot_general"),
    "twice itself": (lambda y, b, c: jnp.tanh(y + y), "dot_general"),
    "a product of parameters added": (lambda y, b, c: jnp.tanh(y + _rows(jnp.vdot(b, c))), "dot_general"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_output_is_after_the_bias(name):
    ending, kind = ENDINGS[name]
    traced = sites_of(lambda p, x: ending(x @ p["w"], p["b"], p["c"]), W, X)
    site = next(s for s in traced.sites if s.names[0].split("#")[0] == "w")
    assert kind_at(lambda p, x: ending(x @ p["w"], p["b"], p["c"]), site.result[0]) == kind


def kind_at(apply, address) -> str:
    """Name of the primitive at an address in the jaxpr of `apply(W, X)`."""
    jaxpr = jax.make_jaxpr(apply)(W, X)
    for step, index in enumerate(address):
        if step % 2 == 0:
            eqn = jaxpr.eqns[index]
        else:
            jaxpr = eqn.params["jaxpr"]
    return eqn.primitive.name


def test_output_is_before_a_second_parameter():
    def apply(p, x):
        return jnp.tanh(x @ p["w"] + p["b"][None] + p["c"][None])

    (site,) = sites_of(apply, W, X).sites
    eqns = jax.make_jaxpr(apply)(W, X).eqns
    additions = [i for i, eqn in enumerate(eqns) if eqn.primitive.name == "add"]
    assert site.result[0] == (additions[0],)
    assert len(additions) == 2


# Dots and lookups between parameters, constants and signals that are no layers, and those that are.
VERDICTS = {
    "scores between signals": (lambda p, x: (x @ p["w"]) @ (x @ p["w"]).T, ["w#0", "w#1"]),
    "weight decay term": (lambda p, x: (x @ p["w"], jnp.sum(p["w"] ** 2)), ["w"]),
    "a norm by vdot": (lambda p, x: (x @ p["w"], jnp.vdot(p["b"], p["b"])), ["w"]),
    "outer product": (lambda p, x: jnp.outer(x[:, 0], p["b"]) + x @ p["w"], ["w"]),
    "masked": (lambda p, x: x @ (p["w"] * jnp.tri(4, 5)), ["w"]),
    "positive": (lambda p, x: x @ jax.nn.softplus(p["w"]), ["w"]),
    "symmetric": (lambda p, x: x @ (p["w"][:, :4] + p["w"][:, :4].T), ["w"]),
    "left operand": (lambda p, x: p["w"].T @ x.T, ["w"]),
    "picked by data": (lambda p, x: p["w"][x.astype(jnp.int32)[:, 0] % 4], ["w"]),
    "picked at a fixed place": (lambda p, x: x @ p["w"] + p["w"][2][None], ["w"]),
    "two rows of a batch of keys": (lambda p, x: jax.vmap(lambda r: r @ p["w"])(x), ["w"]),
    "take": (lambda p, x: jnp.take(p["w"], x.astype(jnp.int32)[:, 0] % 4, axis=0), ["w"]),
    "matrix power": (lambda p, x: x @ (p["w"][:, :4] @ p["w"][:, :4]), ["w"]),
    "used in both branches": (
        lambda p, x: jax.lax.cond(x[0, 0] > 0, lambda: x @ p["w"], lambda: -x @ p["w"]), ["w#0", "w#1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VERDICTS)
def test_verdicts(name):
    apply, names = VERDICTS[name]
    assert [n for site in sites_of(apply, W, X).sites for n in site.names] == names


def test_layers_among_parameters_alone_may_share_their_weight():
    """Learned tokens through one layer twice: the second use has the first one's weight on both sides."""
    params = {"tokens": jnp.ones((3, 4)), "kernel": jnp.ones((4, 4))}

    def apply(params, x):
        hidden = jnp.tanh(params["tokens"] @ params["kernel"])
        penalty = jnp.sum((params["kernel"].T @ params["kernel"] - jnp.eye(4)) ** 2)  # no layer
        return jnp.tanh(hidden @ params["kernel"]) + x, penalty

    _, records = jinit.measure(apply)(params, jnp.ones((3, 4)))
    assert list(records) == ["kernel#0", "kernel#1"]
