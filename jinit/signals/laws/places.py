"""Where along an axis an entry stands, as a root: what lies at a border of zeros has a law of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.classes import by_paths, is_finer, joint_of
from jinit.signals.laws.law import Law, first_along, ratio, square_root, without
from jinit.signals.laws.roots import DEVIATION, MASK, PLACE, SIGNAL, Places, Root
from jinit.signals.laws.runs import Run, runs_of

# Classes of places along an axis at most, by the number of axes that windows slide along.
MOST = {1: 36, 2: 4, 3: 3}
# Of the nodes of a law: what differs by less, over their size, makes no difference.
NOTHING = 1e-4
# The mean square of the mean of classes of mean square one: of less they do not rise and fall together.
TOGETHER = 0.9


def positions(law: Law) -> list[int]:
    """Where among its roots those of places stand."""
    return [i for i, r in enumerate(law.roots) if r.kind == PLACE]


def position_along(law: Law, axis: int) -> int | None:
    """Where among its roots that of places along an axis stands, if one does."""
    return next((i for i in positions(law) if axis in law.roots[i].axes), None)


def others(law: Law) -> list[int]:
    """Where among its roots all others stand."""
    return [i for i, r in enumerate(law.roots) if r.kind != PLACE]


def others_along(law: Law, axes: frozenset[int]) -> list[int]:
    """Where among its roots those others stand that vary along some of these axes."""
    return [i for i in others(law) if law.roots[i].axes & axes]


def axes_of(law: Law) -> frozenset[int]:
    """The axes along which places differ."""
    return frozenset().union(*(law.roots[i].axes for i in positions(law)))


def union_of(laws: Iterable[Law]) -> tuple[Root, ...]:
    """The roots of places of several laws, in order of appearance."""
    return tuple(dict.fromkeys(r for law in laws for r in law.roots if r.kind == PLACE))


def weights_of(laws: Iterable[Law]) -> dict[Root, Array]:
    """The roots of places of several laws, each with its weights."""
    return {r: r.places.weights() for r in union_of(laws) if r.places is not None}


def first(law: Law) -> Law:
    """The law at the first places."""
    return without(law, positions(law), first_along(law, positions(law)))


def at(x: Array, law: Law, roots: Sequence[Root]) -> Array:
    """`x`, of one entry along all roots of a law but those of places, with an axis for each of `roots`."""
    order = [law.roots.index(r) for r in roots if r in law.roots]
    rest = [i for i in range(len(law.roots)) if i not in order]
    sizes = [x.shape[law.roots.index(r)] if r in law.roots else 1 for r in roots]
    return xp.transpose(x, [*order, *rest]).reshape(sizes)


def as_signal(root: Root) -> Root:
    """The root, taken as random along its axes like any other."""
    if root.kind != PLACE:
        return root
    return dataclasses.replace(root, name=(root.name, root.axes, root.places), kind=SIGNAL, places=None)


def as_signals(law: Law, axes: Iterable[int] | None = None) -> Law:
    """`law`, of which places along these axes, all by default, count as random."""
    wanted = None if axes is None else frozenset(axes)
    roots = tuple(as_signal(r) if wanted is None or r.axes & wanted else r for r in law.roots)
    return law if roots == law.roots else dataclasses.replace(law, roots=roots, is_normal=False)


def relabelled(root: Root, axis_map: Sequence[frozenset[int]], after: Sequence[int]) -> Root:
    """The root where its axis stands now; random where that has other places."""
    assert root.places is not None
    (axis,) = root.axes
    to = axis_map[axis]
    if len(to) != 1 or after[next(iter(to))] != len(root.places.of):
        return as_signal(root)
    return dataclasses.replace(root, axes=to)


def merged(law: Law, axes: Sequence[int]) -> Law:
    """`law`, with the places along these axes as those along one, for now the first of them that has some."""
    ours = [i for i in positions(law) if law.roots[i].axes & frozenset(axes)]
    if not ours:
        return law
    by_axis = {k: i for k in axes for i in ours if k in law.roots[i].axes}
    sizes = [law.shape[k] for k in axes]
    of, paths = np.zeros(sizes, int), np.ones((*sizes, 1))
    for axis in by_axis:
        known = law.roots[by_axis[axis]].places
        assert known is not None
        along = [n if k == axis else 1 for k, n in zip(axes, sizes, strict=True)]
        of = of * len(known.paths) + np.reshape(known.of, along)
        own = np.asarray(known.paths)[list(known.of)].reshape(*along, 1, -1)
        paths = (paths[..., None] * own).reshape(*sizes, -1)
    ordered = list(by_axis.values())
    rest = [i for i in range(len(law.roots)) if i not in ours]
    nodes = xp.transpose(law.nodes, [*ordered, *rest])
    count = int(np.prod(nodes.shape[: len(ordered)]))
    shape = nodes.shape[len(ordered) :]
    every = Places(tuple(of.ravel().tolist()), ((1.0,),) * count)
    classes = by_paths(paths.reshape(of.size, -1), MOST[1])
    root = Root(PLACE, law.roots[ordered[0]].axes, PLACE, places=every)
    whole = dataclasses.replace(
        law,
        nodes=nodes.reshape(count, *shape),
        weights=(every.weights(), *(law.weights[i] for i in rest)),
        roots=(root, *(law.roots[i] for i in rest)),
    )
    return _refined(whole, {(root.name, root.axes): classes})


def picked(law: Law, indices: Mapping[int, np.ndarray], value: Any = None) -> Law:
    """`law`, of the entries at these indices along each axis; -1 stands for an entry that is `value`.

    The shape of the law is left as it is.
    """
    for axis, index in indices.items():
        i = position_along(law, axis)
        nodes, weights, roots = law.nodes, list(law.weights), list(law.roots)
        if i is None:
            if (index >= 0).all():
                continue
            i, nodes, known = len(roots), nodes[..., None], Places((0,) * law.shape[axis], ((1.0,),))
            weights.append(None)  # type: ignore[arg-type]
            roots.append(Root(PLACE, frozenset([axis]), PLACE, places=known))
        known = roots[i].places
        assert known is not None
        gap = len(known.paths)
        classes: np.ndarray = np.asarray([*known.of, gap])[index]  # -1 is the last: the gap
        used, of = np.unique(classes, return_inverse=True)
        if value is not None:
            empty = xp.broadcast_to(value, (*nodes.shape[:i], 1, *nodes.shape[i + 1 :])).astype(nodes.dtype)
            nodes = xp.concatenate([nodes, empty], axis=i)
        nodes = xp.take(nodes, used, axis=i)
        paths = np.asarray([*known.paths, (0.0,) * len(known.paths[0])])[used]
        left = Places(tuple(of.reshape(-1).tolist()), tuple(map(tuple, paths.tolist())))
        roots[i], weights[i] = dataclasses.replace(roots[i], places=left), left.weights()
        if len(used) == 1:
            nodes = xp.squeeze(nodes, i)
            del roots[i], weights[i]
        law = dataclasses.replace(law, nodes=nodes, weights=tuple(weights), roots=tuple(roots))
    return law


def of_few_classes(law: Law, axis: int) -> Law:
    """`law`, with no more classes of places along this axis than are kept of one."""
    for i in positions(law):
        root = law.roots[i]
        if axis in root.axes and root.places is not None and len(root.places.paths) > MOST[1]:
            numbers = np.asarray(root.places.paths)[list(root.places.of)]
            return _refined(law, {(root.name, root.axes): by_paths(numbers, MOST[1])})
    return law


def refined(laws: Sequence[Law]) -> list[Law]:
    """The laws, with the same classes of places along the same axes."""
    known: dict[tuple[Any, frozenset[int]], dict[Places, None]] = {}
    for root in union_of(laws):
        assert root.places is not None
        known.setdefault((root.name, root.axes), {})[root.places] = None
    most = MOST.get(len({axes for _, axes in known}), 2)
    joint = {key: joint_of(tuple(found), most) for key, found in known.items() if len(found) > 1}
    joint |= {k: mine for k, mine in _of_masks(laws) if k in joint and not is_finer(joint[k], mine)}
    return [_refined(law, joint) for law in laws] if joint else list(laws)


def _of_masks(laws: Sequence[Law]) -> Iterator[tuple[tuple[Any, frozenset[int]], Places]]:
    """The classes of rows of a mask, which are not to be taken together: what one keeps another may not."""
    for law in laws:
        masked = frozenset[int]().union(*(r.axes for r in law.roots if r.kind == MASK))
        for root in (law.roots[i] for i in positions(law)):
            if root.places is not None and root.axes <= masked:
                yield (root.name, root.axes), root.places


def _refined(law: Law, joint: Mapping[Any, Places]) -> Law:
    for i, root in enumerate(law.roots):
        before, after = root.places, joint.get((root.name, root.axes))
        if before is not None and after is not None and before != after:
            shares = np.zeros((len(after.paths), len(before.paths)))
            np.add.at(shares, (list(after.of), list(before.of)), 1.0)
            law = dataclasses.replace(
                law,
                nodes=_mixed(law.nodes, i, shares / shares.sum(axis=1, keepdims=True)),
                weights=(*law.weights[:i], after.weights(), *law.weights[i + 1 :]),
                roots=(*law.roots[:i], dataclasses.replace(root, places=after), *law.roots[i + 1 :]),
            )
    return law


def _mixed(nodes: Array, axis: int, shares: np.ndarray) -> Array:
    """The nodes of each new class, from those of the old ones that it has: of the same mean square.

    Where these do not rise and fall together, as of `stack([-x, y])`, they are those of one of them.
    """
    first = np.argmax(shares, axis=1)
    if (shares.max(axis=1) == 1).all() or not np.issubdtype(nodes.dtype, np.floating):
        return xp.take(nodes, first, axis=axis)
    old = xp.moveaxis(nodes, axis, 0)
    weights = xp.asarray(shares, nodes.dtype)
    size = square_root(xp.mean(old * old, tuple(range(1, old.ndim)), keepdims=True))
    mean, square, whole = (xp.einsum("nk,k...->n...", weights, x) for x in (old, old * old, size * size))
    unit = xp.einsum("nk,k...->n...", weights, old * ratio(xp.ones_like(size), size))
    apart = xp.mean(unit * unit, tuple(range(1, old.ndim)), keepdims=True) < TOGETHER
    one = xp.take(old, first, axis=0) * square_root(ratio(whole, xp.take(size * size, first, axis=0)))
    return xp.moveaxis(xp.where(apart, one, xp.sign(mean) * square_root(square)), 0, axis)


def differing(law: Law, kinds: Collection[str] = (PLACE, DEVIATION)) -> Law:
    """`law`, without those of such roots that make no difference any more, as behind a normalization.

    What places of one class differed by is gone then, too.
    """
    for i in reversed([i for i, r in enumerate(law.roots) if r.kind in kinds]):
        if is_traced(law.nodes) or not np.issubdtype(law.nodes.dtype, np.floating):
            return law
        size = np.sqrt(np.mean(np.square(law.nodes))) if law.nodes.size else 0.0
        if size and np.isfinite(size) and np.all(np.ptp(law.nodes, axis=i) <= NOTHING * size):
            if law.roots[i].kind == PLACE:
                roots = tuple(_evened(r, law.roots[i].axes) for r in law.roots)
                law = dataclasses.replace(law, roots=roots)
            law = without(law, [i], first_along(law, [i]))
    return law


def _evened(root: Root, axes: frozenset[int]) -> Root:
    """A root, its copies of the same variance at all places along these axes."""
    runs = {k: run.evened if isinstance(run, Run) and k in axes else run for k, run in root.runs}
    return dataclasses.replace(root, runs=runs_of(runs))


def along_axis(x: Array, roots: Sequence[Root], axis: int) -> np.ndarray:
    """The mean of a function of these roots, or of none, at each index along an axis."""
    known = next((i for i, r in enumerate(roots) if r.kind == PLACE and axis in r.axes), None)
    if x.ndim < len(roots) or known is None or x.shape[known] == 1:
        return np.asarray(mean_over(x, roots))
    by_class = np.moveaxis(np.asarray(x), known, 0)
    rest = [r for i, r in enumerate(roots) if i != known]
    return np.stack([mean_over(each, rest) for each in by_class])[classes_of(roots[known])]


def mean_over(x: Array, roots: Sequence[Root]) -> float:
    """The mean of a function of these roots, or of none, over all entries."""
    each = np.asarray(x)
    for i, root in enumerate(roots if each.ndim >= len(roots) else ()):
        if root.places is not None and each.shape[i] > 1:
            each = np.average(each, axis=i, weights=np.asarray(root.places.weights()), keepdims=True)
    return float(np.mean(each))


def classes_of(root: Root) -> np.ndarray:
    """The class of each index along the axis of a root of places."""
    assert root.places is not None
    return np.asarray(root.places.of)


def alike(law: Law, axes: Iterable[int]) -> Law:
    """`law`, of the same mean square at all places along these axes."""
    wanted = frozenset(axes)
    for i in reversed(positions(law)):
        if law.roots[i].axes & wanted:
            shares = np.asarray(law.weights[i], np.float64)[None]
            law = without(law, [i], _mixed(law.nodes, i, shares / shares.sum()))
    return law


def along(law: Law, roots: Sequence[Root]) -> Law:
    """`law`, with all of these roots of places, also those that it does not depend on, first."""
    rest = others(law)
    nodes = xp.transpose(law.nodes, [*(law.roots.index(r) for r in roots if r in law.roots), *rest])
    sizes = [law.nodes.shape[law.roots.index(r)] if r in law.roots else 1 for r in roots]
    counts = [len(r.places.paths) for r in roots if r.places]
    tail = nodes.shape[len(nodes.shape) - len(rest) :]
    nodes = xp.broadcast_to(nodes.reshape((*sizes, *tail)), (*counts, *tail))
    weights = (*(r.places.weights() for r in roots if r.places), *(law.weights[i] for i in rest))
    return dataclasses.replace(
        law, nodes=nodes, weights=weights, roots=(*roots, *(law.roots[i] for i in rest))
    )
