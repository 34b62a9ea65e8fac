"""Spectra of the Jacobians inside a network: site to output, input to site, site to site."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp

from jinit._errors import message
from jinit._typing import Array, PyTree
from jinit.jaxprs.tracing import Signature, check_call, split
from jinit.spectra.arguments import check_output
from jinit.spectra.calls import Output, is_floating, refuse_mixing, slots_of
from jinit.spectra.jacobian import make_call
from jinit.spectra.site_jacobians import Between, SiteJacobians
from jinit.spectra.spectrum import Spectrum


class LayerSpectra(dict[str, Spectrum]):
    """A dict from site name to `Spectrum`, in program order, that keeps its order through `jax.jit`.

    Attributes:
      skipped: name of a site -> why it has no spectrum.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> params = {"a": jnp.eye(3), "b": jnp.eye(3)}
      >>> spectra = jinit.layer_spectra(lambda p, x: x @ p["b"] @ p["a"])(params, jnp.ones((2, 3)))
      >>> list(spectra), spectra.skipped
      (['b', 'a'], {})
    """

    def __init__(self, spectra: Any = (), skipped: dict[str, str] | None = None):
        super().__init__(spectra)
        self.skipped = dict(skipped or {})


jax.tree_util.register_pytree_node(
    LayerSpectra,
    lambda s: (tuple(s.values()), (tuple(s), tuple(s.skipped.items()))),
    lambda names, values: LayerSpectra(zip(names[0], values, strict=True), dict(names[1])),
)


def layer_spectra(
    apply: Callable[..., PyTree],
    *,
    between: Between = "site_to_output",
    output: Output = None,
    per_example: bool | None = None,
) -> Callable[..., LayerSpectra]:
    """The singular values of the Jacobians at every site of a network, all of them exact.

    A site is a use of a weight, as in `jinit.measure`; its output comes after the bias. Shown by depth, the
    spectra tell where directions are lost or blown up.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`.
      between: `"site_to_output"`: `∂ outputs / ∂ h` for the output `h` of each site, what a gradient meets on
        its way back, one backward pass for each output; tokens may be the input. `"input_to_site"`:
        `∂ h / ∂ input`, by the first input, one forward pass for each of its entries. `"site_to_site"`:
        `∂ h / ∂ h'` for the last site before it that it depends on (the input for the first), along all
        paths: `W D` in a plain network.
      output: selects among the outputs; else all floating ones count.
      per_example: as in `jinit.jacobian_spectrum`.

    Returns:
      A function `(params, *inputs, **kwargs) -> LayerSpectra`, a dict of `Spectrum` by site name. Their
      leading axes are `[examples]`, where there are any, then `[length]` inside a `scan`. Sites in a
      `while_loop`, in a `cond`, in `shard_map` or in a function with its own derivative rule are in its
      `skipped` with the reason, as are those in a `scan` with `"site_to_site"`.

    Raises:
      TypeError: `apply` or `output` is no function.
      ValueError: `between` is none of these; `"input_to_site"` with integer inputs; no floating output; a
        Jacobian of more than 2^24 entries; examples depend on one another (NaN under `jax.jit`; with token
        inputs, whose dependence can't be tried, examples are run as batches of one all the same).

    Example:
      >>> import flax.linen as nn, jax, jinit
      >>> model = nn.Sequential([nn.Dense(16, kernel_init=jinit.he_normal()), nn.relu, nn.Dense(4)])
      >>> x = jax.random.normal(jax.random.key(0), (3, 8))
      >>> params = model.init(jax.random.key(1), x)
      >>> spectra = jinit.layer_spectra(model.apply)(params, x)
      >>> {name: s.shape for name, s in spectra.items()}
      {'params/layers_0/kernel': (4, 16), 'params/layers_2/kernel': (4, 4)}
      >>> spectra["params/layers_2/kernel"].verdict()
      'isometric'

    References:
      Glorot and Bengio, *Understanding the difficulty of training deep feedforward neural networks*, 2010,
      §4.2, for the singular values of the Jacobian of a layer; Pennington, Schoenholz, Ganguli, *Resurrecting
      the sigmoid in deep learning through dynamical isometry*, 2017.
    """
    caller = "jinit.layer_spectra(...)"
    check_call(apply, caller=caller)
    check_output(caller, output)
    if between not in get_args(Between):
        must = f"`between` must be one of {', '.join(map(repr, get_args(Between)))}"
        raise ValueError(message(caller, must, f"{between=}"))

    @functools.partial(jax.jit, static_argnums=0)
    def run(signature: Signature, arrays: list[Array]) -> tuple[LayerSpectra, Array]:
        slots = slots_of(signature, len(arrays))
        floating = len(slots) > 1 and any(is_floating(jnp.asarray(arrays[i])) for i in slots[1])
        argnums = (1,) if floating or between == "input_to_site" else ()
        call = make_call(apply, signature, arrays, argnums, output, per_example, caller)

        def inside(arrays: list[Array]) -> LayerSpectra:
            return LayerSpectra(
                *SiteJacobians(call, apply, signature, output, arrays, caller).spectra(between)
            )

        return call.each(inside), call.mixes(caller)

    def of_call(params: PyTree, *inputs: Any, **kwargs: Any) -> LayerSpectra:
        signature, arrays = split(params, inputs, kwargs)
        spectra, mixes = run(signature, arrays)
        return refuse_mixing(mixes, spectra, caller)

    return of_call
