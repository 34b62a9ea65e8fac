"""The visitor that rescales the output of every site while the program runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jinit._compat import opened, varying_axes
from jinit._typing import Array, PyTree, at_least_float32
from jinit.calibrate.knobs import Knob
from jinit.calibrate.solve import NONFINITE, Everywhere, first, solve, solve_centered
from jinit.jaxprs.axes import axes_of
from jinit.jaxprs.graph import Address, Graph, Node, called
from jinit.jaxprs.sites import Analysis, Site
from jinit.jaxprs.tracing import Program
from jinit.signals.moments import Moments

BATCHES = "jinit batches"  # name of the axis over which several batches are mapped
_COUNTED = frozenset({"while", "cond", "shard_map", "unchecked_shard_map"})


@dataclasses.dataclass(frozen=True)
class Station:
    """Where the output of a site is rescaled.

    Attributes:
      site: the site, entered where its bias is added if it has one, so that the visitor sees both addends.
      operand: which addend is the contraction; None if there is no bias.
      sign: of the bias.
      num_units: how many units have a factor of their own; 0 if all share one.
      unit_axes: axes of the output that index them, in their order; None if they cannot be told apart there.
      mesh_axes: manual axes of a `shard_map` that does not check what varies.
    """

    site: Site
    operand: int | None
    sign: float
    num_units: int
    unit_axes: tuple[int, ...] | None
    mesh_axes: tuple[str, ...]


def find_stations(program: Program, analysis: Analysis, knobs: Sequence[Knob]) -> list[Station]:
    """The station of every site."""
    makers = {n.address: n for n in analysis.graph.nodes if n.eqn is not None}
    found = []
    for site, node, knob in zip(analysis.sites.sites, analysis.layers, knobs, strict=True):
        last = makers[site.result[0]]
        operand = _addend(analysis.graph, last, node) if last.kind in ("add", "add_any", "sub") else None
        entered = site if operand is None else dataclasses.replace(site, address=site.result[0])
        shape = tuple((last.eqn.outvars[0] if operand is None else last.eqn.invars[operand]).aval.shape)
        axes = axes_of(site)
        same = shape == tuple(node.eqn.outvars[0].aval.shape)
        units = axes.output_units if knob.unit_axes and axes is not None and same else None
        mesh = _mesh_axes(program, site.address) if "unchecked_shard_map" in site.regions else ()
        sign = -1.0 if last.kind == "sub" else 1.0
        weight = site.operands[site.weight].shape
        num_units = math.prod(weight[i] for i in knob.unit_axes) if knob.unit_axes else 0
        found.append(Station(entered, operand, sign, num_units, units, mesh))
    return found


def _addend(graph: Graph, last: Node, node: Node) -> int | None:
    """Which operand of the addition comes from the contraction."""
    makers = {o: n for n in graph.nodes for o in n.outs}
    for position, value in enumerate(last.ins):
        while value != node.outs[0] and value in makers and len(makers[value].ins) == 1:
            value = makers[value].ins[0]
        if value == node.outs[0]:
            return position
    return None


def _mesh_axes(program: Program, address: Address) -> tuple[str, ...]:
    """Manual axes of every `shard_map` around an equation."""
    jaxpr, axes = program.jaxpr, []
    for at, which in zip(address[::2], address[1::2], strict=False):
        eqn = jaxpr.eqns[at]
        params = eqn.params
        if eqn.primitive.name == "shard_map":
            axes += params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"]
        if "branches" in params:
            inner = params["branches"][which]
        elif "body_jaxpr" in params:
            inner = params["body_jaxpr" if which else "cond_jaxpr"]
        else:
            inner = called(eqn)
        jaxpr, _ = opened(inner)
    return tuple(axes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Found:
    """What the visitor found at one site.

    Attributes:
      output: moments of the output, after rescaling.
      before: moments before it; None where nothing is rescaled here.
      log_factor: logarithm of the factor: what is not reached adds zero.
      shift: what is added to the entries of the bias.
      unit_error: largest `|√(variance/target) − 1|` of the units, where each has its own factor.
      obstacle: why the factor stays one, see `solve`; of several units the gravest. What is not reached adds
        zero.
    """

    output: Moments
    before: Moments | None = None
    log_factor: Array | None = None
    shift: Array | None = None
    unit_error: Array | None = None
    obstacle: Array | None = None


@dataclasses.dataclass(frozen=True)
class Rescaler:
    """Rescales exact sites and measures the others.

    The extra of a site multiplies its target, step by step.

    Attributes:
      stations: one for each site.
      targets: variance wanted; None where nothing is.
      in_flight: whether a site is rescaled; else it is measured.
      center: axes of the output over which its mean is taken away, by site; None where it stays.
      batched: whether several batches are mapped over. What is found adds up over them.
      taken: inside a branch, whether this batch takes it; None outside.
    """

    stations: Sequence[Station]
    targets: Sequence[float | None]
    in_flight: Sequence[bool]
    center: Sequence[tuple[int, ...] | None]
    batched: bool = False
    taken: Array | None = None
    rewrites = True

    def in_branch(self, taken: Array) -> Rescaler:
        """Counts only the batches that take the branch."""
        also = taken if self.taken is None else taken & self.taken
        return dataclasses.replace(self, taken=also) if self.batched else self

    def enter(self, index: int, operands: list[Array], extra: PyTree) -> tuple[list[Array], PyTree]:
        """Rescales the contraction where it meets its bias."""
        station = self.stations[index]
        if station.operand is None or not self.in_flight[index]:
            return operands, None
        x, bias = operands[station.operand], operands[1 - station.operand]
        rank = max(x.ndim, bias.ndim)
        wide = [
            y.reshape((1,) * (rank - y.ndim) + y.shape) for y in (x, bias)
        ]  # JAX adds bare numbers as such
        scaled, shifted, found = self._rescale(index, wide[0], wide[1], extra)
        operands = list(operands)
        operands[station.operand] = scaled.reshape(x.shape)
        operands[1 - station.operand] = bias if shifted is None else shifted.reshape(bias.shape)
        return operands, found

    def leave(self, index: int, output: Array, extra: PyTree) -> tuple[Array, PyTree]:
        """Rescales the output where there is no bias; measures it where nothing is rescaled."""
        if not self.in_flight[index]:
            return output, self._measured(index, output)
        if self.stations[index].operand is not None:
            return output, None
        output, _, found = self._rescale(index, output, None, extra)
        return output, found

    def _measured(self, index: int, x: Array) -> Found:
        station, target = self.stations[index], self.targets[index]
        moments = Moments.of(x, counted=self._is_counted(station))
        if not station.unit_axes or target is None:
            return Found(moments)
        axes, everywhere = self._shared_axes(station, x)
        now = solve(x.astype(at_least_float32(x.dtype)), None, target, axes, everywhere).before
        return Found(moments, unit_error=_error(now[1], target))

    def _shared_axes(self, station: Station, x: Array) -> tuple[tuple[int, ...], Everywhere]:
        """Axes of an output over which its variance is taken, and the mean over devices and batches."""
        names = tuple(station.mesh_axes or sorted(varying_axes(x)))
        axes = tuple(i for i in range(x.ndim) if i not in (station.unit_axes or ()))

        def everywhere(mean: Array) -> Array:
            mean = lax.pmean(mean, names) if names else mean
            if not self.batched:
                return mean
            if self.taken is None:
                return lax.pmean(mean, BATCHES)
            share = self._share().astype(mean.dtype)
            return lax.psum(jnp.where(self.taken, mean * share, jnp.zeros_like(mean)), BATCHES)

        return axes, everywhere

    def _share(self) -> Array:
        """One over the number of batches that get here."""
        here = jnp.ones((), jnp.float32) if self.taken is None else self.taken.astype(jnp.float32)
        return 1 / jnp.maximum(lax.psum(here, BATCHES), 1)

    def _is_counted(self, station: Station) -> bool:
        return self.batched or bool(station.site.regions & _COUNTED)

    def _rescale(
        self, index: int, x: Array, bias: Array | None, extra: Array | None
    ) -> tuple[Array, Array | None, Found]:
        """The contraction rescaled, the bias shifted if it centers; both addends have the output's rank."""
        station, target, over = self.stations[index], self.targets[index], self.center[index]
        assert target is not None
        target = target if extra is None else target * extra
        wide = x.astype(at_least_float32(x.dtype))
        signed = None if bias is None else (bias * jnp.asarray(station.sign, bias.dtype)).astype(wide.dtype)
        axes, everywhere = self._shared_axes(station, x)
        shift = None
        if over is None or bias is None:
            found = solve(wide, signed, target, axes, everywhere)
        else:
            found = solve_centered(wide, target, axes, over, everywhere)
            centered = -station.sign * found.factor.astype(wide.dtype) * found.mean
            shift = centered - first(bias, over).astype(wide.dtype)
            shift = jnp.where(found.obstacle == NONFINITE, jnp.zeros_like(shift), shift)
            bias = (bias.astype(wide.dtype) + shift).astype(bias.dtype)
        scaled = (wide * found.factor.astype(wide.dtype)).astype(x.dtype)
        # Summed over devices and batches later.
        share = 1 / lax.psum(1, station.mesh_axes) if station.mesh_axes else 1.0
        share = share * self._share() if self.batched else share
        log_factor = jnp.log(_by_unit(found.factor, station))
        after, before = (self._moments(station, x.size, *pair) for pair in (found.after, found.before))
        error = _error(found.after[1], target) if station.unit_axes else None
        shift, obstacle = None if shift is None else shift * share, jnp.max(found.obstacle) * share
        part = Found(after, before, log_factor * share, shift, error, obstacle)
        return scaled, bias, part

    def _moments(self, station: Station, size: int, mean: Array, variance: Array) -> Moments:
        """Moments of an output from those of its parts with a factor each, all of one size."""
        square = variance + jnp.square(jnp.abs(mean))
        times = jnp.ones((), variance.dtype) if self._is_counted(station) else None
        uncounted = jnp.full((), jnp.nan, variance.dtype)
        return Moments(jnp.mean(mean) * size, jnp.mean(square) * size, uncounted, uncounted, times, size)


def _error(variance: Array, target: float | Array) -> Array:
    return jnp.max(jnp.abs(jnp.sqrt(variance / target) - 1))


def _by_unit(factor: Array, station: Station) -> Array:
    """The factors of all units in order, or the one factor."""
    if station.num_units == 0:
        return factor.reshape(())
    if station.unit_axes is None:
        return jnp.broadcast_to(factor.reshape(()), (station.num_units,))
    kept = sorted(station.unit_axes)
    squeezed = factor.reshape([factor.shape[i] for i in kept])
    return squeezed.transpose([kept.index(i) for i in station.unit_axes]).reshape(-1)
