"""The spectrum of the Jacobian of a network, end to end or between two sites."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jinit._errors import message
from jinit._typing import Array, Key, PyTree
from jinit.initializers._arguments import count
from jinit.jaxprs.tracing import Signature, check_call, split
from jinit.spectra.arguments import check_output, whole_numbers
from jinit.spectra.calls import Call, Output, flat_apply, is_floating, mapped_inputs, refuse_mixing, slots_of
from jinit.spectra.golub_kahan import estimated_spectrum
from jinit.spectra.linear_maps import RealFunction, both_ways, jacobian_matrix
from jinit.spectra.spectrum import Spectrum, exact_spectrum

Method = Literal["auto", "exact", "estimate"]
# What "auto" still computes exactly: a decomposition of 1024 × 1024 takes about a second on a CPU.
MOST_VALUES, MOST_ENTRIES = 1024, 2**24


def jacobian_spectrum(
    apply: Callable[..., PyTree],
    *,
    argnums: int | Sequence[int] = 1,
    output: Output = None,
    per_example: bool | None = None,
    method: Method = "auto",
    probes: int = 8,
    steps: int = 32,
    key: Key | None = None,
) -> Callable[..., Spectrum]:
    """The singular values of the input-output Jacobian `J = ∂ outputs / ∂ inputs`.

    How a network stretches and squeezes what passes through it: an infinitesimal change `dx` of the input
    changes the output by `J dx`, a gradient `g` of the output comes back as `Jᵀ g`. With all singular values
    near one (dynamical isometry) signals and gradients keep their size in every direction.

    Exact: the Jacobian from its smaller side, then a singular value decomposition, `O(rows · columns ·
    min(rows, columns))`. Estimated: Golub-Kahan bidiagonalization from random probes, `2 · probes · steps`
    products with `J` and `Jᵀ`, no matrix. It gives moments and densities with standard errors, and the
    largest singular value from below. Heavy-tailed spectra (deep Gaussian networks) need many probes.

    Arrays of low precision are differentiated in it, decompositions are in float32 (float64 for 64-bit
    arrays). Complex arrays count as pairs of real ones, `(Re, Im)`: a holomorphic map has each singular value
    twice.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`, as for `jinit.measure`.
      argnums: which argument or arguments to differentiate with respect to, counted as `jax.jacobian`
        does: 1 is the first input. Leaves of integers are held.
      output: selects among the outputs, as `lambda out: out[0]`; else all floating ones count.
      per_example: True: the first axis of inputs and outputs holds examples, each with a Jacobian of its own,
        of a batch of one. Inputs whose first axis is as long are cut along, others shared. False: one
        Jacobian of all entries. None: True where each of these inputs has at least two axes and the first
        axes agree.
      method: `"exact"`, `"estimate"`, or `"auto"`: exact up to 1024 singular values and 2^24 entries.
      probes: number of random probes of an estimate. One gives `largest`, but standard errors need two:
        they are infinite.
      steps: number of steps from each.
      key: key of the probes, consumed, the same for all examples; `jax.random.key(0)` if None.

    Returns:
      A function `(params, *inputs, **kwargs) -> Spectrum`, under `jax.jit`, `jax.vmap` or neither; with
      examples every field has a leading axis `[examples]`.

    Raises:
      TypeError: `apply` or `output` is no function; `argnums`, `probes` or `steps` is no whole number.
      ValueError: an option is out of range; the inputs to differentiate are integers, such as tokens, or are
        none; no output is floating; `per_example=True` without examples; examples depend on one another, as
        in BatchNorm in training (under `jax.jit`, which allows no error, the result is NaN).

    Example:
      >>> import flax.linen as nn, jax, jinit
      >>> model = nn.Sequential([nn.Dense(32, kernel_init=jinit.orthogonal()) for _ in range(10)])
      >>> x = jax.random.normal(jax.random.key(0), (4, 32))
      >>> params = model.init(jax.random.key(1), x)
      >>> spectrum = jinit.jacobian_spectrum(model.apply)(params, x)
      >>> spectrum.singular_values.shape, spectrum.verdict()
      ((4, 32), 'isometric')

    References:
      Saxe, McClelland, Ganguli, *Exact solutions to the nonlinear dynamics of learning in deep linear neural
      networks*, 2014, for isometry; Pennington, Schoenholz, Ganguli, *Resurrecting the sigmoid in deep
      learning through dynamical isometry*, 2017. Golub and Kahan, *Calculating the singular values and
      pseudo-inverse of a matrix*, 1965; Ubaru, Chen, Saad, *Fast estimation of tr(f(A)) via stochastic
      Lanczos quadrature*, 2017.
    """
    caller = "jinit.jacobian_spectrum(...)"
    check_call(apply, caller=caller)
    check_output(caller, output)
    wanted = _argnums(argnums, caller)
    probes, steps = check_options(method, probes, steps, caller)
    solve = functools.partial(spectrum_of, method=method, probes=probes, steps=steps, caller=caller)

    @functools.partial(jax.jit, static_argnums=0)
    def run(signature: Signature, arrays: list[Array], key: Key) -> tuple[Spectrum, Array]:
        call = make_call(apply, signature, arrays, wanted, output, per_example, caller)
        # Every example has the same probes: what differs between them is the network.
        spectrum = call.each(lambda xs: solve(RealFunction(call.of_wanted(xs), call.at(xs)), key=key))
        return spectrum, call.mixes(caller)

    def of_call(params: PyTree, *inputs: Any, **kwargs: Any) -> Spectrum:
        signature, arrays = split(params, inputs, kwargs)
        spectrum, mixes = run(signature, arrays, jax.random.key(0) if key is None else key)
        return refuse_mixing(mixes, spectrum, caller)

    return of_call


def spectrum_of(
    function: RealFunction, *, key: Key, method: Method, probes: int, steps: int, caller: str
) -> Spectrum:
    """The spectrum of the Jacobian of a function at a point, by one of the methods."""
    rows, columns = function.shape
    small = min(rows, columns) <= MOST_VALUES and rows * columns <= MOST_ENTRIES
    if method == "exact" or (method == "auto" and small):
        return exact_spectrum(jacobian_matrix(function, caller))
    outputs = jax.ShapeDtypeStruct((rows,), function.dtype)
    push, pull = both_ways(function, function.vector, outputs, caller)
    shape = (rows, columns)
    return estimated_spectrum(push, pull, shape, function.dtype, key=key, probes=probes, steps=steps)


def make_call(
    apply: Callable[..., PyTree],
    signature: Signature,
    arrays: list[Array],
    argnums: Sequence[int],
    output: Output,
    per_example: bool | None,
    caller: str,
) -> Call:
    """The call that is to be differentiated with respect to some of its arguments."""
    arrays = [jnp.asarray(x) for x in arrays]
    slots = slots_of(signature, len(arrays))
    if argnums and max(argnums) >= len(slots):
        got = f"argnums={tuple(argnums)!r} for {len(slots)} arguments"
        raise ValueError(message(caller, "`argnums` must be arguments of the call, `params` being 0", got))
    wanted = tuple(i for n in argnums for i in slots[n] if is_floating(arrays[i]))
    if argnums and not wanted:
        kinds = sorted({str(arrays[i].dtype) for n in argnums for i in slots[n]})
        must = "the inputs to differentiate with respect to must be floating"
        advice = (
            "There is no derivative by token ids: use `jinit.layer_spectra`, from each site to the output."
        )
        raise ValueError(message(caller, must, f"dtypes {kinds}", advice))
    call = Call(flat_apply(apply, signature, output, caller), arrays, wanted)
    outputs = jax.eval_shape(call.flat, arrays)
    if not any(x.size for x in outputs):
        must = "`apply` must have a floating output that is not empty"
        raise ValueError(message(caller, must, "none", "Select among the outputs with `output=`."))
    inputs = [i for of_input in slots[1:] for i in of_input]
    mapped = mapped_inputs(per_example, call, inputs, outputs, caller)
    return Call(call.flat, arrays, wanted, mapped)


def _argnums(argnums: int | Sequence[int], caller: str) -> tuple[int, ...]:
    found = whole_numbers(caller, "argnums", argnums)
    if not found or min(found) < 1 or len(set(found)) < len(found):
        advice = (
            "Counted as in `jax.jacobian`: 1 is the first input. For params: `jinit.neural_tangent_kernel`."
        )
        must = "`argnums` must name inputs, each once, from 1 up"
        raise ValueError(message(caller, must, f"{argnums=}", advice))
    return found


def check_options(method: str, probes: int, steps: int, caller: str) -> tuple[int, int]:
    """`probes` and `steps`; raise for a method that is none, or numbers that are not whole and at least 1."""
    if method not in get_args(Method):
        must = f"`method` must be one of {', '.join(map(repr, get_args(Method)))}"
        raise ValueError(message(caller, must, f"{method=}"))
    return count(caller, "probes", probes), count(caller, "steps", steps)
