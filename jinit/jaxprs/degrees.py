"""How a value made of parameters scales when the parameters are scaled: its degree of homogeneity.

Scaling each leaf `w_k` by `s^a_k` scales a monomial `∏ w_k^d_k` by `s^(a·d)`. A value is held as the set of
monomials that it is a sum of: exponents `a` with `a·d = 1` for each of them scale the value by `s`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jinit._compat import source_of
from jinit.jaxprs.dataflow import SIGNAL, until_stable
from jinit.jaxprs.graph import COPIES, Node
from jinit.jaxprs.sites import Analysis

Monomial = frozenset[tuple[int, float]]  # (leaf, degree); degree zero left out
ONE: Monomial = frozenset()
_MOST_MONOMIALS, _HIGHEST_DEGREE = 16, 16.0


@dataclasses.dataclass(frozen=True)
class Form:
    """How a value depends on the leaves of `params`.

    Attributes:
      monomials: those it is a sum of; none if it is zero.
      rough: leaf -> why the value is no sum of powers of it.
    """

    monomials: frozenset[Monomial] = frozenset([ONE])
    rough: tuple[tuple[int, str], ...] = ()

    @property
    def leaves(self) -> frozenset[int]:
        """The leaves it scales with, in whatever way."""
        return frozenset(leaf for m in self.monomials for leaf, _ in m) | dict(self.rough).keys()


CONSTANT, ZERO = Form(), Form(frozenset())


def find_degrees(analysis: Analysis) -> list[Form]:
    """The form of every value; what depends on the inputs, or comes out of a site, counts as constant."""
    graph, flow = analysis.graph, analysis.flow
    forms = [CONSTANT] * graph.num_values
    for index, value in enumerate(graph.inputs):
        if flow.leaves[value] == frozenset([index]):
            forms[value] = Form(frozenset([frozenset([(index, 1.0)])]))
    for value, number in graph.numbers.items():
        # NaN stands for "never", as in `where(n > 0, variance, nan)`.
        if number == 0 or number != number:
            forms[value] = ZERO
    barriers = {id(n) for n in analysis.layers}
    nodes = [n for n in graph.nodes if n.outs and id(n) not in barriers and flow.status[n.outs[0]] != SIGNAL]

    def step() -> bool:
        changed = False
        for node in nodes:
            for out, form in zip(node.outs, _forms_of(node, forms), strict=True):
                changed |= forms[out] != form
                forms[out] = form
        return changed

    until_stable(step)
    return forms


def exponents(form: Form, leaves: Iterable[int]) -> dict[int, float]:
    """Exponents `a` such that `w_k · s^a_k` for these leaves scales the value by `s`; empty if none do.

    Of all solutions the one with the least sum of squares: factors of a product share the scale evenly.
    """
    chosen = sorted(set(leaves) - dict(form.rough).keys())
    if not chosen or not form.monomials:
        return {}
    degrees = np.array([[dict(m).get(leaf, 0.0) for leaf in chosen] for m in form.monomials])
    solution = np.linalg.lstsq(degrees, np.ones(len(degrees)), rcond=None)[0]
    if not np.allclose(degrees @ solution, 1.0, atol=1e-9):
        return {}
    return {k: float(round(a, 9)) for k, a in zip(chosen, solution, strict=True) if abs(a) > 1e-9}


def _forms_of(node: Node, forms: list[Form]) -> list[Form]:
    ins = [forms[i] for i in node.ins]
    if node.kind == "optimization_barrier":
        return ins
    rule = RULES.get(node.kind, _unknown)
    form = _unknown(node, ins) if node.opaque else rule(node, ins)
    decided = [forms[i] for i in node.control]
    if any(f.leaves for f in decided):
        form = _unknown(node, [form, *decided])
    return [form] * len(node.outs)


def _form(node: Node, monomials: Iterable[Monomial], ins: list[Form]) -> Form:
    """A form with these monomials, and what is rough already; what grows without end is rough too."""
    rough = {leaf: why for f in reversed(ins) for leaf, why in f.rough}
    kept = frozenset(frozenset((k, d) for k, d in m if k not in rough) for m in monomials)
    if len(kept) > _MOST_MONOMIALS or any(abs(d) > _HIGHEST_DEGREE for m in kept for _, d in m):
        return _unknown(node, [Form(kept, tuple(sorted(rough.items())))])
    return Form(kept, tuple(sorted(rough.items())))


def _unknown(node: Node, ins: list[Form]) -> Form:
    """A function of which nothing is known: what it depends on is rough from here on."""
    where = source_of(node.eqn) if node.eqn is not None else ""
    why = f"`{node.kind}`{f' ({where})' if where else ''}"
    rough = {leaf: why for f in ins for m in f.monomials for leaf, _ in m}
    rough.update({leaf: reason for f in ins for leaf, reason in f.rough})
    return Form(frozenset([ONE]), tuple(sorted(rough.items())))


def _data(*positions: int) -> Callable[[Node, list[Form]], Form]:
    """Entries of these operands, moved or added up, where the other operands say."""

    def rule(node: Node, ins: list[Form]) -> Form:
        data = [ins[p] for p in positions if p < len(ins)]
        others = [f for p, f in enumerate(ins) if p not in positions]
        if any(f.leaves for f in others):
            return _unknown(node, ins)
        return _form(node, (m for f in data for m in f.monomials), data)

    return rule


def _linear(node: Node, ins: list[Form]) -> Form:
    return _form(node, (m for f in ins for m in f.monomials), ins)


def _select(node: Node, ins: list[Form]) -> Form:
    return _data(*range(1, len(ins)))(node, ins)


def _times(a: Monomial, b: Monomial, sign: float = 1.0) -> Monomial:
    degrees = dict(a)
    for leaf, degree in b:
        degrees[leaf] = degrees.get(leaf, 0.0) + sign * degree
    return frozenset((k, d) for k, d in degrees.items() if d != 0)


def _product(node: Node, ins: list[Form]) -> Form:
    return _form(node, {_times(a, b) for a in ins[0].monomials for b in ins[1].monomials}, ins)


def _quotient(node: Node, ins: list[Form]) -> Form:
    top, bottom = ins
    if len(bottom.monomials) != 1:
        bottom = _unknown(node, [bottom])
    (below,) = bottom.monomials
    return _form(node, {_times(a, below, -1.0) for a in top.monomials}, [top, bottom])


def _power(exponent: Callable[[Node], float]) -> Callable[[Node, list[Form]], Form]:
    def rule(node: Node, ins: list[Form]) -> Form:
        if len(ins[0].monomials) > 1 or any(f.leaves for f in ins[1:]):
            return _unknown(node, ins)
        y = exponent(node)
        return _form(node, (frozenset((k, d * y) for k, d in m) for m in ins[0].monomials), ins)

    return rule


def _pow(node: Node, ins: list[Form]) -> Form:
    y: Any = getattr(node.eqn.invars[1], "val", None)
    return _unknown(node, ins) if y is None else _power(lambda _: float(y))(node, ins)


def _comparison(node: Node, ins: list[Form]) -> Form:
    """Of values that scale alike, or with zero: the same at every scale."""
    if len(frozenset().union(*(f.monomials for f in ins))) > 1:
        return _unknown(node, ins)
    return _form(node, [ONE], ins)


_LINEAR = (
    *COPIES, "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "slice",
    "concatenate", "pad", "split", "neg", "abs", "real", "imag", "conj", "complex", "add", "sub", "add_any",
    "max", "min", "reduce_sum", "reduce_max", "reduce_min", "cumsum", "cummax", "cummin", "clamp",
    "reduce_window_sum", "psum", "psum2", "psum_invariant", "all_gather", "all_gather_invariant",
    "all_to_all", "ppermute", "reduce_scatter", "tile", "join", "all steps", "steps of", "sort",
)  # fmt: skip
_PRODUCTS = ("mul", "dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general")
_COMPARISONS = ("sign", "eq", "ne", "lt", "le", "gt", "ge", "argmax", "argmin", "is_finite")
RULES: dict[str, Callable[[Node, list[Form]], Form]] = {
    **dict.fromkeys(_LINEAR, _linear),
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys(_COMPARISONS, _comparison),
    "div": _quotient,
    "select_n": _select,
    "gather": _data(0),
    "dynamic_slice": _data(0),
    "dynamic_update_slice": _data(0, 1),
    "scatter": _data(0, 2),
    "scatter-add": _data(0, 2),
    "pow": _pow,
    "integer_pow": _power(lambda node: node.eqn.params["y"]),
    "square": _power(lambda _: 2.0),
    "sqrt": _power(lambda _: 0.5),
    "rsqrt": _power(lambda _: -0.5),
    "cbrt": _power(lambda _: 1.0 / 3.0),
}
