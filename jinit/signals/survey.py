"""Everything `diagnose` needs of a network, from one jitted program."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jinit._typing import Array, Key, PyTree
from jinit.jaxprs.axes import axes_of
from jinit.jaxprs.sites import Site
from jinit.jaxprs.tracing import Signature, check_call, param_paths, split
from jinit.signals.measure import records_of
from jinit.signals.moments import Moments
from jinit.signals.observe import Pass, inexact, observe
from jinit.signals.records import Records
from jinit.signals.units import UnitGauge, UnitStatistics, units_of


@dataclasses.dataclass(frozen=True)
class SiteInfo:
    """What tracing alone knows of a site.

    Attributes:
      name: the key in `records`.
      kind: `dot_general`, `conv_general_dilated`, `gather`, ...
      leaves: paths of the parameters that make up the weight operand.
      dtype: dtype name of the output, such as `float32`.
      output_shape: shape of the output, one loop step.
      units: number of output units.
      lengths: lengths of the scans around it, outermost first; `()` outside of any.
      source: `file.py:12 (function)` of the user's line.
      reads_network_input: whether the signal comes from the network's inputs, past no other site.
      feeds_output_only: whether nothing but the network's outputs uses it (no later site).
      index: number of the site; several names may share it.
      upstream: the sites that it depends on, bit `i` for site `i`; in a loop that may be itself.
    """

    name: str
    kind: str
    leaves: tuple[str, ...]
    dtype: str
    output_shape: tuple[int, ...]
    units: int
    lengths: tuple[int, ...]
    source: str
    reads_network_input: bool
    feeds_output_only: bool
    index: int
    upstream: int

    def leads_to(self, other: SiteInfo) -> bool:
        """Whether the other site depends on this one."""
        return bool(other.upstream >> self.index & 1)


@dataclasses.dataclass(frozen=True)
class Survey:
    """Records, and beside them what only a report needs; arrays may still be on the device.

    Attributes:
      records: as from `measure`.
      sites: static facts of every site, in program order, by the same names as `records`.
      units: `UnitStatistics` by site name.
      unused: paths of parameters that reach no output.
      not_followed: path of a parameter -> why it could not be followed.
      nonfinite_parameters: path -> number of NaN or infinite entries, only those with any.
      zero_parameters: paths of the parameters that are zero in every entry.
      nonfinite_outputs: number of NaN or infinite entries in the outputs.
      variances: path -> variance of the entries of a parameter.
      described: what `describe` made of the pass.
      backward_error: empty, or why there is no backward pass in `records`.
    """

    records: Records
    sites: tuple[SiteInfo, ...]
    units: dict[str, UnitStatistics]
    unused: tuple[str, ...]
    not_followed: dict[str, str]
    nonfinite_parameters: dict[str, int]
    zero_parameters: tuple[str, ...]
    nonfinite_outputs: int
    variances: dict[str, float] = dataclasses.field(default_factory=dict)
    described: Any = None
    backward_error: str = ""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["records", "units"], meta_fields=["facts"])
@dataclasses.dataclass(frozen=True)
class _Found:
    """What leaves the jitted program: arrays, and facts that tracing alone decides."""

    records: Records
    units: list[dict[str, Array]]
    facts: tuple[Any, ...]


def survey(
    apply: Callable[..., PyTree],
    *,
    backward: bool = True,
    loss: Callable[[PyTree], Array] | None = None,
    key: Key | None = None,
    describe: Callable[[Pass, list[Array]], Any] = lambda one_pass, arrays: None,
    caller: str = "jinit.diagnose(...)",
) -> Callable[..., tuple[PyTree, Survey]]:
    """`measure`, and the statistics of units, for a report.

    `describe` may look at the pass while it is traced, and return hashable facts that tracing alone decides.
    Where no backward pass can be had, what was seen going forward is returned with the reason.
    """
    check_call(apply, caller=caller)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def run(signature: Signature, backward: bool, arrays: list[Array], key: Key) -> tuple[PyTree, _Found]:
        outputs, one_pass = observe(
            apply, signature, arrays, UnitGauge(), backward=backward, loss=loss, key=key, caller=caller
        )
        return outputs, _found(one_pass, arrays, describe(one_pass, arrays))

    def surveyed(params: PyTree, *inputs: Any, **kwargs: Any) -> tuple[PyTree, Survey]:
        signature, arrays = split(params, inputs, kwargs)
        used_key = jax.random.key(0) if key is None else key
        reason = ""
        try:
            outputs, found = run(signature, backward, arrays, used_key)
        except Exception as error:
            if not backward:
                raise
            outputs, found = _forward_alone(run, signature, arrays, used_key, error)
            if loss is not None and not _is_number(jax.eval_shape(loss, outputs)):
                raise
            reason = str(error).splitlines()[0]
        return outputs, _survey(found, param_paths(signature, arrays), arrays, outputs, reason)

    return surveyed


def _forward_alone(
    run: Callable[..., Any], signature: Signature, arrays: list[Array], key: Key, error: Exception
) -> Any:
    """What can be seen without a backward pass; the first error stands if forward fails too."""
    try:
        return run(signature, False, arrays, key)
    except Exception:
        raise error from None


def _is_number(x: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct) and x.shape == () and jnp.issubdtype(x.dtype, jnp.floating)


def _found(one_pass: Pass, arrays: list[Array], described: Any) -> _Found:
    pairs = list(zip(one_pass.sites.sites, one_pass.found, strict=True))
    paths = one_pass.program.paths
    infos = tuple(_info(name, i, site, paths) for i, (site, _) in enumerate(pairs) for name in site.names)
    units = [{k: v for k, v in found.items() if not isinstance(v, Moments)} for _, found in pairs]
    facts = (
        infos,
        tuple(site.names for site, _ in pairs),
        one_pass.sites.unused,
        tuple(one_pass.sites.not_followed.items()),
        described,
    )
    return _Found(records_of(one_pass, arrays), units, facts)


def _info(name: str, index: int, site: Site, paths: tuple[str, ...]) -> SiteInfo:
    axes = axes_of(site)
    weight = site.operands[site.weight].shape
    units = (
        math.prod(weight[i] for i in axes.units)
        if axes
        else site.output.shape[-1]
        if site.output.shape
        else 1
    )
    return SiteInfo(
        name=name,
        kind=site.eqn.primitive.name,
        leaves=tuple(paths[i] for i in site.leaves),
        dtype=str(site.output.dtype),
        output_shape=tuple(site.output.shape),
        units=units,
        lengths=site.lengths,
        source=site.source,
        reads_network_input=not site.after_site,
        feeds_output_only=not site.before_site,
        index=index,
        upstream=site.upstream,
    )


def _survey(
    found: _Found, paths: tuple[str, ...], arrays: list[Array], outputs: PyTree, backward_error: str
) -> Survey:
    # Leaf by leaf, with one cached program a shape: one large program would take long to compile.
    leaves = {p: jnp.asarray(x) for p, x in zip(paths, arrays, strict=False)}
    moments = {p: Moments.of(x, stored=True) for p, x in leaves.items() if inexact(x)}
    of_params, of_outputs = jax.device_get(
        (moments, [Moments.of(x) for x in jax.tree.leaves(outputs) if inexact(x)])
    )
    infos, names, unused, not_followed, described = found.facts
    units = [units_of(u) for u in jax.device_get(found.units)]
    return Survey(
        records=found.records,
        sites=infos,
        units={name: u for of_site, u in zip(names, units, strict=True) for name in of_site},
        unused=unused,
        not_followed=dict(not_followed),
        nonfinite_parameters={
            p: int(m.nonfinite_count) for p, m in of_params.items() if m.nonfinite_count > 0
        },
        zero_parameters=tuple(p for p, m in of_params.items() if m.count > 0 and m.zero_count == m.count),
        variances={p: float(m.variance) for p, m in of_params.items() if m.count > 0},
        described=described,
        nonfinite_outputs=sum(int(m.nonfinite_count) for m in of_outputs),
        backward_error=backward_error,
    )
