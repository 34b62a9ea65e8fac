"""Run a traced program again, handing every site to a visitor.

The walk is itself traceable: `jit`, `vmap` and `grad` of it work. Equations without a site inside
run as they stand; control flow with sites inside is emitted anew with the public function, so that
what the visitor returns can leave it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from jinit._compat import Literal, bind, opened, scan_arity, vary, varying_axes
from jinit._sharding import on_this_mesh
from jinit._typing import Array, PyTree
from jinit.jaxprs.again import Origin, contract, origin_of
from jinit.jaxprs.graph import Address, called
from jinit.jaxprs.sites import Site
from jinit.jaxprs.tracing import Program

# (index of the site, "enter" or "leave") -> what the visitor returned there.
Parts = dict[tuple[int, str], PyTree]
Extras = dict[int, PyTree]


class Visitor(Protocol):
    """What looks at, and may change, the values at every site.

    `extra` is the pytree given to the walk for this site, or None. Parts are pytrees of sums: over the
    steps of a `while_loop`, the branches of a `cond` and the devices of a `shard_map` they add up.

    Attributes:
      rewrites: whether it changes values. Then functions with their own derivative are entered like any
        other, and lose it: it would be that of the values as they were.
    """

    @property
    def rewrites(self) -> bool:
        """Whether it changes values."""
        ...

    def enter(self, index: int, operands: list[Array], extra: PyTree) -> tuple[list[Array], PyTree]:
        """Sees the operands of the contraction; returns them, and a part."""
        ...

    def leave(self, index: int, output: Array, extra: PyTree) -> tuple[Array, PyTree]:
        """Sees the output, after the bias; returns it, and a part."""
        ...

    def in_branch(self, taken: Array) -> Visitor:
        """The visitor inside a branch, which may run without being taken where calls are mapped over."""
        ...


def walk(
    program: Program, sites: Sequence[Site], arrays: Sequence[Array], visitor: Visitor, extras: Extras, *,
    frugal: bool = False,
) -> tuple[list[Array], Parts]:  # fmt: skip
    """Run `program` on `arrays`.

    Args:
      program: from `trace`.
      sites: those to visit.
      arrays: inputs of the program.
      visitor: called at every site while tracing.
      extras: for each site index a pytree whose leaves have the leading axes `site.lengths`, handed
        to the visitor step by step.
      frugal: whether signals that are cheap to make are made again going backward, instead of being kept.

    Returns:
      The outputs, flat, and the parts; inside a `scan` a part has a leading axis `[length]`.
    """
    signals = {site.address: site.signal for site in sites if frugal and _can_be_made_again(site)}
    walker = _Walker(visitor, *_index(sites), signals)
    outs, parts = walker.body(program.jaxpr, program.consts, list(arrays), (), extras)
    return [jnp.asarray(x) for x in outs], parts  # an output may be a number that stands in the program


def _can_be_made_again(site: Site) -> bool:
    floating = all(jnp.issubdtype(x.dtype, jnp.inexact) for x in site.operands)
    return site.signal is not None and floating and site.output.size > 0 and site.regions <= {"scan"}


def _index(sites: Sequence[Site]) -> tuple[dict, dict, dict]:
    """Sites by the equation they enter, by the equation they leave, and by every enclosing equation."""
    enters: dict[Address, list[int]] = {}
    leaves: dict[Address, list[tuple[int, int]]] = {}
    inside: dict[Address, list[int]] = {}
    for index, site in enumerate(sites):
        at, position = site.result
        enters.setdefault(site.address, []).append(index)
        leaves.setdefault(at, []).append((index, position))
        for address in {a[:k] for a in (site.address, at) for k in range(1, len(a))}:
            inside.setdefault(address, []).append(index)
    return enters, leaves, inside


@dataclasses.dataclass(frozen=True)
class _Walker:
    visitor: Visitor
    enters: dict[Address, list[int]]
    leaves: dict[Address, list[tuple[int, int]]]
    inside: dict[Address, list[int]]
    signals: dict[Address, int | None]  # of the sites whose signal may be made again

    def body(
        self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Array], at: Address, extras: Extras
    ) -> tuple[list[Array], Parts]:
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        makers: dict[Any, Any] = {}
        parts: Parts = {}

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else env[atom]

        for i, eqn in enumerate(jaxpr.eqns):
            here, origin = (*at, i), None
            if (signal := self.signals.get(here)) is not None:
                origin = origin_of(eqn, signal, makers, read)
            outs, new = self.equation(eqn, [read(v) for v in eqn.invars], here, extras, origin)
            parts.update(new)
            env.update(zip(eqn.outvars, outs, strict=True))
            makers.update(dict.fromkeys(eqn.outvars, eqn))
        return [read(v) for v in jaxpr.outvars], parts

    def equation(
        self, eqn: Any, ins: list[Any], at: Address, extras: Extras, origin: Origin | None
    ) -> tuple[list[Any], Parts]:
        with eqn.ctx.manager:  # such as the mesh that it was traced under
            if at in self.inside:
                outs, parts = EMIT[eqn.primitive.name](self, eqn, ins, at, extras)
            else:
                outs, parts = self.visited(eqn, ins, at, extras, origin)
        return outs, jax.tree.map(on_this_mesh, parts) if parts else parts

    def visited(
        self, eqn: Any, ins: list[Any], at: Address, extras: Extras, origin: Origin | None
    ) -> tuple[list[Any], Parts]:
        parts: Parts = {}
        for index in self.enters.get(at, ()):
            ins, parts[index, "enter"] = self.visitor.enter(index, ins, extras.get(index))
        outs = bind(eqn, ins) if origin is None else contract(eqn, ins, origin)
        for index, position in self.leaves.get(at, ()):
            outs[position], parts[index, "leave"] = self.visitor.leave(
                index, outs[position], extras.get(index)
            )
        return outs, parts

    def inner(self, jaxpr: Any, at: Address) -> Callable[[Sequence[Any], Extras], tuple[list[Any], Parts]]:
        """The walk of an inner jaxpr, as a function of its inputs and the extras of its sites."""
        opened_jaxpr, consts = opened(jaxpr)
        return lambda args, extras: self.body(opened_jaxpr, consts, args, at, extras)

    def extras_at(self, at: Address, extras: Extras) -> Extras:
        return {i: extras[i] for i in self.inside[at] if i in extras}


def _call(walker: _Walker, eqn: Any, ins: list[Any], at: Address, extras: Extras) -> Any:
    return walker.inner(called(eqn), (*at, 0))(ins, extras)


def _remat(walker: _Walker, eqn: Any, ins: list[Any], at: Address, extras: Extras) -> Any:
    run = dataclasses.replace(walker, signals={}).inner(called(eqn), (*at, 0))
    again = jax.checkpoint(run, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"])
    return again(ins, walker.extras_at(at, extras))


def _custom(walker: _Walker, eqn: Any, ins: list[Any], at: Address, extras: Extras) -> Any:
    """The user's derivative survives: values come from the function itself, parts from a second look."""
    if walker.visitor.rewrites:
        return _call(walker, eqn, ins, at, extras)
    _, parts = walker.inner(called(eqn), (*at, 0))([lax.stop_gradient(x) for x in ins], {})
    return bind(eqn, ins), parts


def _scan(walker: _Walker, eqn: Any, ins: list[Any], at: Address, extras: Extras) -> Any:
    num_consts, num_carries = scan_arity(eqn)
    run = walker.inner(eqn.params["jaxpr"], (*at, 0))
    consts, start, xs = (
        ins[:num_consts],
        ins[num_consts : num_consts + num_carries],
        ins[num_consts + num_carries :],
    )

    def step(carry: list[Any], scanned: Any) -> Any:
        x, extras = scanned
        outs, parts = run([*consts, *carry, *x], extras)
        return outs[:num_carries], (outs[num_carries:], parts)

    keep = {k: eqn.params[k] for k in ("reverse", "length", "unroll")}
    carry, (ys, parts) = lax.scan(step, start, (xs, walker.extras_at(at, extras)), **keep)
    return [*carry, *ys], parts


def _while(walker: _Walker, eqn: Any, ins: list[Any], at: Address, extras: Extras) -> Any:
    a, b = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    go_on = walker.inner(eqn.params["cond_jaxpr"], (*at, 0))
    run = walker.inner(eqn.params["body_jaxpr"], (*at, 1))

    def step(state: Any) -> Any:
        carry, sums = state
        outs, parts = run([*ins[a : a + b], *carry], {})
        return outs, jax.tree.map(jnp.add, sums, parts)

    start = ins[a + b :]
    _, shapes = jax.eval_shape(lambda c: run([*ins[a : a + b], *c], {}), start)
    carry, parts = lax.while_loop(lambda s: go_on([*ins[:a], *s[0]], {})[0][0], step, (start, _zeros(shapes)))
    return carry, parts


def _cond(walker: _Walker, eqn: Any, ins: list[Any], at: Address, extras: Extras) -> Any:
    runs = [
        dataclasses.replace(walker, visitor=walker.visitor.in_branch(ins[0] == k)).inner(branch, (*at, k))
        for k, branch in enumerate(eqn.params["branches"])
    ]
    here = walker.extras_at(at, extras)
    shapes: Parts = {}
    for run in runs:
        shapes.update(jax.eval_shape(run, ins[1:], here)[1])

    def whole(run: Any) -> Any:
        def branch(args: Any, extras: Extras) -> Any:
            outs, parts = run(args, extras)
            return outs, {**_zeros(shapes), **parts}

        return branch

    return lax.switch(ins[0], [whole(run) for run in runs], ins[1:], here)


def _shard_map(walker: _Walker, eqn: Any, ins: list[Any], at: Address, extras: Extras) -> Any:
    params = eqn.params
    axes = params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"]
    run = walker.inner(called(eqn), (*at, 0))

    def total(part: Array) -> Array:
        over = varying_axes(part) if params["check_vma"] else axes
        return lax.psum(part, tuple(over)) if over else part

    def shard(args: Any, extras: Extras) -> Any:
        outs, parts = run(args, extras)
        return tuple(outs), jax.tree.map(total, parts)

    P = jax.sharding.PartitionSpec
    return jax.shard_map(
        shard,
        mesh=params["mesh"],
        in_specs=(list(params["in_specs"]), P()),
        out_specs=(tuple(params["out_specs"]), P()),
        axis_names=set(axes),
        check_vma=params["check_vma"],
    )(ins, walker.extras_at(at, extras))


def _zeros(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda s: vary(jnp.zeros(s.shape, s.dtype), varying_axes(s)), shapes)


_CALLS = ("jit", "pjit", "closed_call", "core_call")
EMIT = {
    **dict.fromkeys(_CALLS, _call),
    **dict.fromkeys(("remat", "remat2", "checkpoint"), _remat),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"), _custom),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
}
