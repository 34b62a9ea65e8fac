"""Message passing over the edges of a graph, against sums over all nodes, as they hold for wide networks.

With `K` the second moments of any two nodes, a sum of neighbours by a matrix `T` has `T K Tᵀ`, a layer with
weights of variance `g` over its inputs `g K`, and a rectifier the arc-cosine kernel (Cho, Saul, *Kernel
methods for deep learning*, 2009). Gradients go backward by the transposes and the derivative's kernel.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

WIDTH, LAYERS = 256, 3
add = jax.ops.segment_sum


def graph(nodes, edges, regular=False, seed=0):
    rng = np.random.default_rng(seed)
    receivers = np.repeat(np.arange(nodes), edges // nodes) if regular else rng.integers(0, nodes, edges)
    return (rng.permutation(receivers) if regular else rng.integers(0, nodes, edges)), receivers


def sums(kind, h, senders, receivers, nodes):
    """The neighbours' sum of one kind."""
    degree = add(jnp.ones(len(receivers)), receivers, nodes) + 1
    if kind == "scaled":
        return add(h[senders], receivers, nodes) / 2
    if kind == "with oneself":
        return (1.1 * h + add(h[senders], receivers, nodes)) / jnp.sqrt(degree)[:, None]
    if kind == "both ways":
        return (add(h[senders], receivers, nodes) + add(h[receivers], senders, nodes)) / 3
    if kind == "symmetric, edges to oneself":
        senders, receivers = (np.concatenate([x, np.arange(nodes)]) for x in (senders, receivers))
    scale = 1 / jnp.sqrt(degree)[:, None]
    return add((h * scale)[senders], receivers, nodes) * scale


KINDS = ["scaled", "with oneself", "both ways", "symmetric", "symmetric, edges to oneself"]


def matrix(kind, senders, receivers, nodes):
    """The same, as a matrix."""
    return np.asarray(sums(kind, jnp.eye(nodes), senders, receivers, nodes), np.float64)


def angles(k):
    size = np.sqrt(np.outer(np.diag(k), np.diag(k)))
    return np.arccos(np.clip(k / np.maximum(size, 1e-30), -1, 1)), size


def rectified(k):
    t, size = angles(k)
    return size * (np.sin(t) + (np.pi - t) * np.cos(t)) / (2 * np.pi)


FUNCTIONS = {
    "linear": (lambda x: x, lambda k: k, np.ones_like, 1.0),
    "relu": (jax.nn.relu, rectified, lambda k: (np.pi - angles(k)[0]) / (2 * np.pi), 2.0),
}


def mean_of(k):
    return np.mean(np.diag(k))


def expected(k, t, name, readout):
    """Second moments of input, cotangent and weight gradient of each layer."""
    _, forward, backward, gain = FUNCTIONS[name]
    ins, before = [], []
    for _ in range(LAYERS):
        ins.append(k)
        before.append(gain * t @ k @ t.T)
        k = forward(before[-1])
    out = readout @ k @ readout.T
    found = {"out": (mean_of(out), 1.0, np.trace(out))}
    c = gain * readout.T @ readout
    for i in reversed(range(LAYERS)):
        c = t.T @ (c * backward(before[i])) @ t
        found[f"layer{i}"] = mean_of(ins[i]), mean_of(c), np.sum(ins[i] * c)
        c = gain * c
    return found


def predicted(apply, names, x, gain=1.0, rows=WIDTH):
    shapes = {
        name: jax.ShapeDtypeStruct((rows if name != "out" else WIDTH, WIDTH), "float32") for name in names
    }
    records = jinit.predict(apply, weights=lambda path: gain / shapes[path].shape[0])(shapes, x)
    fields = ("input", "cotangent", "weight_gradient")
    return {name: [float(getattr(r, f).second_moment) for f in fields] for name, r in records.items()}


def assert_close(found, wanted, room):
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=room, err_msg=name)


# Of gradients through rectifiers a power of correlations counts as the square; else classes of nodes are few.
ROOM = {"linear": 0.02, "relu": 0.1}


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("regular", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_convolutions_of_graphs(name, kind, regular, pooled):
    nodes, (senders, receivers) = 48, graph(48, 192, regular)
    activation, *_, gain = FUNCTIONS[name]

    def apply(p, x):
        for i in range(LAYERS):
            x = activation(sums(kind, x @ p[f"layer{i}"], senders, receivers, nodes))
        return (x.mean(0) if pooled else x) @ p["out"]

    names = [*(f"layer{i}" for i in range(LAYERS)), "out"]
    found = predicted(apply, names, jax.ShapeDtypeStruct((nodes, WIDTH), "float32"), gain)
    readout = np.ones((1, nodes)) / nodes if pooled else np.eye(nodes)
    wanted = expected(np.eye(nodes), matrix(kind, senders, receivers, nodes), name, readout)
    assert_close(found, wanted, ROOM[name])


def messages(p, x, senders, receivers, nodes):
    """Layers in which messages are made of both ends of an edge."""
    for i in range(LAYERS):
        m = jnp.concatenate([x[senders], x[receivers]], -1) @ p[f"edge{i}"]
        x = x + jnp.concatenate([x, add(m, receivers, nodes)], -1) @ p[f"node{i}"]
    return x @ p["out"]


def expected_of_messages(k, senders, receivers, nodes):
    """Input and cotangent of each layer."""
    s, r = np.eye(nodes)[senders], np.eye(nodes)[receivers]
    found = {}
    for i in range(LAYERS):
        edge = (s @ k @ s.T + r @ k @ r.T) / 2
        node = (k + r.T @ edge @ r) / 2
        found |= {f"edge{i}": [mean_of(edge)], f"node{i}": [mean_of(node)]}
        k = k + node
    found["out"], c = [mean_of(k), 1.0], np.eye(nodes)
    for i in reversed(range(LAYERS)):
        edge = r @ c @ r.T / 2
        found[f"node{i}"].append(mean_of(c))
        found[f"edge{i}"].append(mean_of(edge))
        c = c + c / 2 + (s.T @ edge @ s + r.T @ edge @ r) / 2
    return found


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("regular", [False, True])
def test_messages_of_both_ends(regular, given):
    """All messages to a node know of its own state; inputs that are given are alike as they are."""
    nodes, (senders, receivers) = 48, graph(48, 192, regular)
    x = np.random.default_rng(1).normal(size=(nodes, WIDTH)).astype(np.float32)
    apply = functools.partial(messages, senders=senders, receivers=receivers, nodes=nodes)
    names = [f"{k}{i}" for i, k in itertools.product(range(LAYERS), ("edge", "node"))]
    found = predicted(
        apply, [*names, "out"], x if given else jax.ShapeDtypeStruct(x.shape, "float32"), rows=2 * WIDTH
    )
    k = x.astype(np.float64) @ x.T / WIDTH if given else np.eye(nodes)
    wanted = expected_of_messages(k, senders, receivers, nodes)
    assert_close({name: values[:2] for name, values in found.items()}, wanted, 0.05 if given else 0.01)


def test_a_graph_of_many_nodes():
    """Elsewhere many positions are taken in groups of neighbours, as in attention; not those of graphs."""
    nodes, (senders, receivers) = 300, graph(300, 1200)
    apply = functools.partial(messages, senders=senders, receivers=receivers, nodes=nodes)
    names = [f"{k}{i}" for i, k in itertools.product(range(LAYERS), ("edge", "node"))]
    x = jax.ShapeDtypeStruct((nodes, WIDTH), "float32")
    found = predicted(apply, [*names, "out"], x, rows=2 * WIDTH)
    wanted = expected_of_messages(np.eye(nodes), senders, receivers, nodes)
    assert_close({name: values[:2] for name, values in found.items()}, wanted, 0.02)


def test_along_another_axis():
    """Graphs of the same edges, stacked along the first axis by `vmap`."""
    nodes, (senders, receivers) = 32, graph(32, 128)
    one = functools.partial(messages, senders=senders, receivers=receivers, nodes=nodes)
    names = [f"{k}{i}" for i, k in itertools.product(range(LAYERS), ("edge", "node"))]
    x = jax.ShapeDtypeStruct((2, nodes, WIDTH), "float32")
    found = predicted(lambda p, x: jax.vmap(one, (None, 0))(p, x), [*names, "out"], x, rows=2 * WIDTH)
    wanted = expected_of_messages(np.eye(nodes), senders, receivers, nodes)
    assert_close({name: values[:2] for name, values in found.items()}, wanted, 0.01)


@pytest.mark.parametrize("lost", ["many", "traced variances", "traced inputs"])
def test_what_is_not_known_of_edges_is_refused(lost):
    nodes, edges = (1000, graph(1000, 3000)) if lost == "many" else (12, graph(12, 48))
    pairs = itertools.product(range(LAYERS), ("edge", "node"))
    shapes = {f"{k}{i}": jax.ShapeDtypeStruct((16, 8), "float32") for i, k in pairs}
    shapes["out"] = jax.ShapeDtypeStruct((8, 8), "float32")

    def run(variance, senders, receivers):
        predict = jinit.predict(functools.partial(messages, nodes=nodes), weights=lambda path: variance)
        return predict(shapes, jnp.ones((nodes, 8)), senders, receivers)["out"].output.second_moment

    call = {
        "many": lambda: run(0.1, *edges),
        "traced variances": lambda: jax.jit(lambda v: run(v, *edges))(0.1),
        "traced inputs": lambda: jax.jit(functools.partial(run, 0.1))(*edges),
    }[lost]
    with pytest.raises(
        NotImplementedError, match=r"give indices and variances as arrays.* at most 2048 nodes"
    ):
        call()


def test_edges_that_lead_nowhere():
    """Those that pad a graph: their sums are dropped, as there is no such node."""
    nodes, (senders, receivers) = 32, graph(32, 128)
    names = [f"{k}{i}" for i, k in itertools.product(range(LAYERS), ("edge", "node"))]
    x = jax.ShapeDtypeStruct((nodes, WIDTH), "float32")

    def apply(p, x):
        s, r = np.append(senders, [0] * 9), np.append(receivers, [nodes] * 9)
        return messages(p, x, s, r, nodes)

    found = predicted(apply, [*names, "out"], x, rows=2 * WIDTH)
    wanted = expected_of_messages(np.eye(nodes), senders, receivers, nodes)
    for name in ("node0", "node1", "node2", "out"):
        np.testing.assert_allclose(found[name][:2], wanted[name], rtol=0.01)


def test_nodes_added_up_by_graph_are_not_refused():
    """As many nodes as there may be: none of them comes again."""
    of = np.sort(np.random.default_rng(0).integers(0, 100, 5000))
    found = predicted(
        lambda p, x: add(x @ p["layer"], of, 100) @ p["out"],
        ["layer", "out"],
        jax.ShapeDtypeStruct((5000, WIDTH), "float32"),
    )
    np.testing.assert_allclose(found["out"][0], 50, rtol=0.01)
