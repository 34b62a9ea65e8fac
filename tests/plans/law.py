"""The law that defines the fans, tried by Monte Carlo on the traced layer itself.

At every site the weight operand is made from fresh independent parameters of variance one, by the network's
own equations; what it meets is replaced with fresh standard normals, so that entries are independent. Then

    Var[output entry] = fan_in · Var[w],    Var[gradient of an input entry] = fan_out · Var[w],

on the entries that padding does not touch, averaged over the phases of a strided window.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._compat import bind
from jinit._typing import Array, PyTree
from jinit.jaxprs.sites import Site, find_sites
from jinit.jaxprs.tracing import split, trace
from jinit.jaxprs.walk import walk

DRAWS = 100
# Of a Student t of 99 degrees of freedom 2 in a million are beyond; some 500 are tried.
Z = 5.0
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile


def inside(eqn: Any) -> tuple[slice, ...]:
    """The entries of a contraction's result that see no padding, whole periods of its phases."""
    if eqn.primitive.name != "conv_general_dilated":
        return ()
    params = eqn.params
    numbers = params["dimension_numbers"]
    slices = [slice(None)] * len(numbers.out_spec)
    for axis, (low, _) in enumerate(params["padding"]):
        step, gaps = params["window_strides"][axis], params["lhs_dilation"][axis]
        window = (eqn.invars[1].aval.shape[numbers.rhs_spec[2 + axis]] - 1) * params["rhs_dilation"][axis] + 1
        end = (
            low + (eqn.invars[0].aval.shape[numbers.lhs_spec[2 + axis]] - 1) * gaps + 1
        )  # of the real entries
        length = eqn.outvars[0].aval.shape[numbers.out_spec[2 + axis]]
        first = max(math.ceil(low / step), 0)
        last = min((end - window) // step + 1, length)
        period = gaps // math.gcd(gaps, step)
        whole = (last - first) // period * period
        assert whole > 0, "the inputs are too small for this window"
        slices[numbers.out_spec[2 + axis]] = slice(first, first + whole)
    return tuple(slices)


def square(y: Array) -> Array:
    """|y|², in float32."""
    return jnp.abs(y.astype(jnp.complex64 if jnp.iscomplexobj(y) else jnp.float32)) ** 2


def normal(rng: np.random.Generator, aval: Any) -> np.ndarray:
    """Standard normals; for a complex dtype of `E|x|² = 1`. Drawn by NumPy: samplers take long to compile."""
    x = rng.normal(size=aval.shape)
    if jnp.issubdtype(aval.dtype, jnp.complexfloating):
        x = (x + 1j * rng.normal(size=aval.shape)) / math.sqrt(2)
    return x.astype(aval.dtype)


@dataclasses.dataclass(frozen=True)
class Trial:
    """The visitor that tries the law at every site, with the signals and gradients given for it."""

    sites: tuple[Site, ...]
    noise: dict[int, tuple[Array, Array]]

    rewrites = False

    def in_branch(self, taken: Array) -> Trial:
        return self

    def enter(self, index: int, operands: list[Array], extra: PyTree) -> tuple[list[Array], PyTree]:
        site = self.sites[index]
        weight, rest = operands[site.weight], operands[2:]
        found = {"weight": square(weight)}
        if index not in self.noise:
            return operands, {**found, "forward": square(bind(site.eqn, operands)[0])}
        signal, gradient = self.noise[index]

        def contraction(signal: Array) -> Array:
            both = [signal, weight] if site.signal == 0 else [weight, signal]
            return bind(site.eqn, [*both, *rest])[0]

        back = jax.linear_transpose(contraction, signal)
        found["forward"] = square(contraction(signal)[inside(site.eqn)])
        (last,) = [e for e in jax.make_jaxpr(back)(gradient).eqns if e.primitive is site.eqn.primitive]
        return operands, {**found, "backward": square(back(gradient)[0][inside(last)])}

    def leave(self, index: int, output: Array, extra: PyTree) -> tuple[Array, PyTree]:
        return output, {}


Energies = dict[str, np.ndarray]  # draw by draw: of the weight operand, forward, backward


def energies(call: Any, drawn: Collection[str], looked_up: Collection[str] = ()) -> dict[str, list[Energies]]:
    """Mean squares at every site of every parameter.

    Args:
      call: `(apply, params, inputs, kwargs)`.
      drawn: paths of the parameters to draw; the others stay as they are.
      looked_up: paths of the tables, whose sites keep the signals that they have.
    """
    apply, params, inputs, kwargs = call
    signature, arrays = split(params, inputs, kwargs)
    program = trace(apply, signature, arrays, caller="test")
    sites = find_sites(program).sites
    noisy = [i for i, s in enumerate(sites) if s.signal is not None and not set(s.names) & set(looked_up)]

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(fresh: list[Array], noise: Any) -> Any:
        _, parts = walk(program, sites, [*fresh, *arrays[len(fresh) :]], Trial(sites, noise), {})
        return {i: parts[i, "enter"] for i in range(len(sites))}

    def draw(rng: np.random.Generator) -> Any:
        pairs = zip(program.paths, arrays, strict=False)
        fresh = [normal(rng, x) if path in drawn else x for path, x in pairs]
        shapes = {i: (sites[i].operands[sites[i].signal or 0], sites[i].eqn.outvars[0].aval) for i in noisy}
        noise = jax.tree.map(functools.partial(normal, rng), shapes)
        return jax.tree.map(np.mean, jax.device_get(run(fresh, noise)))

    # Draw by draw: convolutions vmapped over their kernels are slow on CPU.
    rng = np.random.default_rng(0)
    found = jax.tree.map(lambda *xs: np.stack(xs), *[draw(rng) for _ in range(DRAWS)])
    by_path: dict[str, list[Energies]] = {}
    for index, site in enumerate(sites):
        for name in site.names:
            by_path.setdefault(name.split("#")[0], []).append(found[index])
    return by_path


def z_score(excess: np.ndarray) -> float:
    """By how many standard errors the mean of independent draws differs from zero."""
    rounding = 1e-5 * abs(excess).max() + 1e-30
    return float(excess.mean() / (excess.std(ddof=1) / math.sqrt(len(excess)) + rounding))


def refutes(site: Energies, fan_in: float, fan_out: float | None, *, of_operand: bool = False) -> bool:
    """Whether a site's energies speak against these fans.

    Args:
      site: from `energies`.
      fan_in: to be tried.
      fan_out: to be tried; None for a table.
      of_operand: whether to take the variance of the weight operand instead of the parameter's, which is one.
    """
    variance = site["weight"] if of_operand else np.ones(DRAWS)
    scores = [z_score(site["forward"] - fan_in * variance)]
    if fan_out is not None:
        scores.append(z_score(site["backward"] - fan_out * variance))
    return max(map(abs, scores)) > Z
