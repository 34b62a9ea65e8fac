"""Networks at the edges of what there is: nothing comes in, layers of no width, a layer of one feature."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import pytest

import jinit

diagnose = functools.partial(jinit.diagnose, predict=False)


def drawn(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(k, s) / max(s[0], 1) ** 0.5 for k, s in zip(keys, shapes, strict=True)]


def two_layers(params, x):
    return jnp.dot(jax.nn.relu(jnp.dot(x, params[0])), params[1])


@pytest.mark.parametrize("backward", [True, False])
def test_an_empty_batch_is_told(backward):
    report = diagnose(two_layers, backward=backward)(drawn((6, 4), (4, 3)), jnp.zeros((0, 6)))
    (finding,) = report.findings
    assert (finding.severity, finding.kind) == ("info", "not_followed")
    assert "inputs empty" in finding.evidence
    assert json.dumps(report.to_dict(), allow_nan=False)
    assert str(report)


def test_a_layer_of_no_width():
    def apply(params, x):
        return two_layers(params[:2], x) + jnp.dot(x, params[2])

    x = jax.random.normal(jax.random.key(1), (8, 6))
    report = diagnose(apply)(drawn((6, 0), (0, 3), (6, 3)), x)
    assert report.findings == ()
    assert json.dumps(report.to_dict(), allow_nan=False)
    assert str(report)


@pytest.mark.slow
def test_numbers_of_one_sign_do_not_count_as_collapsed():
    """Squeeze and excitation where the bottleneck has one live unit: its numbers tell the examples apart."""

    def gated(params, x):
        squeeze, excite, head = params
        gate = jax.nn.sigmoid(jnp.dot(jnp.abs(jnp.dot(x, squeeze)), excite))
        return jnp.dot(x * gate, head)

    x = jax.random.normal(jax.random.key(1), (8, 16))
    assert diagnose(gated)(drawn((16, 1), (1, 16), (16, 3)), x).findings == ()

    squeeze, excite, head = drawn((16, 2), (2, 16), (16, 3))
    alive = diagnose(lambda p, x: gated([p[0] * jnp.array([[1.0, 0.0]]), *p[1:]], x))
    assert "collapsed_inputs" not in {f.kind for f in alive([squeeze, excite, head], x).findings}

    def collapsed(params, x):  # shown able to fail: two features, in a fixed ratio
        return gated([jnp.dot(params[0][:, :1], jnp.ones((1, 2))), *params[1:]], x)

    assert "collapsed_inputs" in {f.kind for f in diagnose(collapsed)([squeeze, excite, head], x).findings}


def test_a_parameter_that_was_not_followed_is_named_once():
    def apply(params, x):
        return jnp.dot(x, params[0]) * params[1]

    x = jax.random.normal(jax.random.key(1), (8, 6))
    (finding,) = diagnose(apply)(drawn((6, 4), (8, 4)), x).findings
    assert finding.kind == "not_followed"
    assert finding.evidence.startswith("1: it meets the signal in `mul`")


def tower(layers, x):
    for layer in layers:
        x = jnp.tanh(jnp.dot(x, layer))
    return x


@pytest.mark.slow
def test_branches_side_by_side_are_not_compared():
    """An actor whose head starts small beside a critic: the critic's gradient says nothing of the actor's."""

    def apply(params, x):
        actor, policy, critic, value = params
        return 0.003 * jnp.dot(tower(actor, x), policy), jnp.dot(tower(critic, x), value)

    layers = drawn(*[(64, 64)] * 6)
    params = [layers[:3], *drawn((64, 4)), layers[3:], *drawn((64, 1))]
    x = jax.random.normal(jax.random.key(1), (32, 64))
    assert diagnose(apply)(params, x).findings == ()

    small = [[0.03 * layer for layer in layers[:3]], *params[1:]]  # now the actor itself loses it
    (finding,) = [f for f in diagnose(apply)(small, x).findings if f.kind == "vanishing_gradient"]
    assert finding.site.startswith("0/")
    swapped = [layers[:3], params[1], [0.03 * layer for layer in layers[3:]], params[3]]
    (finding,) = [f for f in diagnose(apply)(swapped, x).findings if f.kind == "vanishing_gradient"]
    assert finding.site.startswith("2/")


@pytest.mark.slow
def test_a_branch_with_a_small_head_is_no_explosion_in_what_it_shares():
    def apply(params, x):
        shared, actor, policy, critic, value = params
        x = tower(shared, x)
        return 0.003 * jnp.dot(tower(actor, x), policy), jnp.dot(tower(critic, x), value)

    layers = drawn(*[(64, 64)] * 6)
    params = [layers[:2], layers[2:4], *drawn((64, 4)), layers[4:], *drawn((64, 1))]
    x = jax.random.normal(jax.random.key(1), (32, 64))
    assert diagnose(apply)(params, x).findings == ()


def test_a_frozen_teacher_needs_no_gradient():
    def apply(params, x):
        student, teacher = params
        return tower(student, x), jax.lax.stop_gradient(tower(teacher, x))

    layers = drawn(*[(64, 64)] * 6)
    x = jax.random.normal(jax.random.key(1), (32, 64))
    assert diagnose(apply)([layers[:3], layers[3:]], x).findings == ()


def test_a_loss_that_is_none_is_an_error():
    params, x = drawn((6, 4), (4, 3)), jnp.ones((8, 6))
    with pytest.raises(ValueError, match="`loss` must map the outputs to one floating number"):
        diagnose(two_layers, loss=lambda y: y)(params, x)
    with pytest.raises(KeyError, match="labels"):
        diagnose(two_layers, loss=lambda y: {}["labels"])(params, x)

    def endless(params, x):
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 0, lambda y: y + 1, two_layers(params, x))

    (finding,) = diagnose(endless, loss=jnp.sum)(params, x).findings  # here the network is why
    assert "No gradients were measured" in finding.evidence


@pytest.mark.slow
def test_a_branch_that_is_not_taken_is_not_judged():
    def apply(params, x):
        taken = jax.lax.cond(
            jnp.sum(x) < jnp.inf,
            lambda x: two_layers(params[:2], x),
            lambda x: two_layers(params[2:], x),
            x,
        )
        return jnp.tanh(taken)

    x = jax.random.normal(jax.random.key(1), (16, 32))
    assert diagnose(apply)(drawn(*[(32, 64), (64, 8)] * 2), x).findings == ()
