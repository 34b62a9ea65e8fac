"""Gradients that vanish and explode.

Perceptrons of 20 hidden layers of 256 units on scikit-learn's digits, biases zero, weights normal with
variance σ_w²/fan_in. Measured is the energy of the gradient at every layer for a random cotangent at the
outputs, over five seeds; predicted is σ_w² E[φ'(√q z)²] for each layer, with the second moment q of its
inputs from `jinit.meanfield.trajectory`. *Per layer* is the geometric mean from the first hidden layer to
the last. The remedies train ten hidden layers of 64 on the same data, 390 steps of SGD with momentum 0.9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jinit
from experiments._data import digits
from experiments._networks import ACTIVATIONS, MLP, initialize, plan
from experiments._numbers import percent, summary, table
from experiments._results import Claim, Track
from experiments._training import train

DEPTH, WIDTH = 20, 256
SCALES = (0.5, 1.0, 2.0, 4.0)
CLOSE = 0.05  # of a factor per layer
CHANCE = 0.2  # an accuracy below this is no learning, with ten classes


def law(scale: float) -> Any:
    """Normal weights of variance scale / fan_in."""
    return jinit.variance_scaling(scale, "fan_in", "normal")


def slope_energy(activation: Callable[[jax.Array], jax.Array], q: np.ndarray) -> np.ndarray:
    """E[φ'(√q z)²], z standard normal, by the midpoint rule on 4000 points."""
    z = (np.arange(4000) + 0.5) / 250 - 8
    weight = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) / 250
    slope = jax.vmap(jax.vmap(jax.grad(activation)))(jnp.asarray(np.sqrt(q)[:, None] * z, jnp.float32))
    return np.asarray(slope, np.float64) ** 2 @ weight


def measured(activation: str, scale: float, seeds: int, depth: int) -> np.ndarray:
    """log10 of the gradient's energy at each hidden layer over that at the last, [seeds, depth]."""
    x, model = digits().x[:256], MLP(depth, WIDTH, ACTIVATIONS[activation])
    params = initialize(model, plan(law(scale)), jax.random.split(jax.random.key(0), seeds), x.shape[1])

    @jax.jit
    def energies(params: Any) -> jax.Array:
        _, records = jinit.measure(model.apply)(params, x)
        moments = [records[f"params/Dense_{i}/kernel"].cotangent.second_moment for i in range(depth)]
        return jnp.log10(jnp.stack(moments))

    found = np.asarray(jax.lax.map(energies, params), np.float64)
    return found - found[:, -1:]


def predicted(activation: str, scale: float, depth: int) -> np.ndarray:
    """The same by mean-field theory, [depth]."""
    x = digits().x[:256]
    q = scale * float(jnp.mean(x**2))
    path = jinit.meanfield.trajectory(
        ACTIVATIONS[activation], q, 1.0, weight_variance=scale, bias_variance=0.0, depth=depth
    )
    factors = scale * slope_energy(ACTIVATIONS[activation], np.asarray(path.q, np.float64)[: depth - 1])
    return np.append(np.cumsum(np.log10(factors)[::-1])[::-1], 0.0)


def remedies(steps: int, seeds: int) -> dict[str, Any]:
    """Accuracy and last loss of networks in trouble and of their remedies."""
    sgd = optax.sgd(0.01, momentum=0.9)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), sgd)
    cases = {
        "exploding (ReLU, σ_w² = 6)": ("relu", law(6.0), sgd),
        "… clipped to norm 1": ("relu", law(6.0), clipped),
        "vanishing (sigmoid, Xavier)": ("sigmoid", jinit.glorot_normal(), sgd),
        "… ReLU in its place, He": ("relu", jinit.he_normal(), sgd),
        "… tanh in its place, Xavier": ("tanh", jinit.glorot_normal(), sgd),
        "far too large (ReLU, σ = 100)": ("relu", jinit.normal(100.0), sgd),
        "… clipped to norm 1, too": ("relu", jinit.normal(100.0), clipped),
    }
    found = {}
    for name, (activation, init, optimizer) in cases.items():
        model = MLP(10, 64, ACTIVATIONS[activation])
        params = initialize(model, plan(init), jax.random.split(jax.random.key(0), seeds), 64)
        trained = train(model.apply, params, digits(), steps=steps, optimizer=optimizer)
        finite = [bool(np.isfinite(leaf).all()) for leaf in np.asarray(trained.loss)]
        found[name] = {"accuracy": summary(trained.accuracy), "finite": finite}
    return found


def not_a_number() -> dict[str, Any]:
    """What `jinit.diagnose` says of a network that is far too large."""
    model = MLP(DEPTH, 64, nn.relu)
    params = initialize(model, plan(jinit.normal(100.0)), jax.random.key(0), 64)
    x = digits().x[:64]
    findings = jinit.diagnose(model.apply)(params, x).findings
    first = next((finding.site for finding in findings if finding.kind == "nonfinite"), None)
    return {"outputs_nan": bool(np.isnan(model.apply(params, x)).any()), "first_site": first}


def run(track: Track, *, small: bool = False) -> dict[str, Any]:
    """Gradient profiles, remedies, and the NaN."""
    depth, seeds, steps = (4, 2, 20) if small else (DEPTH, 5, 390)
    profiles: dict[str, Any] = {}
    for activation, scale in track([(name, scale) for name in ACTIVATIONS for scale in SCALES]):
        logs = measured(activation, scale, seeds, depth), predicted(activation, scale, depth)
        profiles.setdefault(activation, {})[f"{scale:g}"] = {
            "measured": logs[0].mean(0),
            "predicted": logs[1],
            "measured_per_layer": 10 ** (logs[0].mean(0)[0] / (depth - 1)),
            "predicted_per_layer": 10 ** (logs[1][0] / (depth - 1)),
        }
    parts = {"remedies": lambda: remedies(steps, seeds), "too large": not_a_number}
    return {"profiles": profiles, **{name: parts[name]() for name in track(list(parts))}}


def claims(data: dict[str, Any]) -> list[Claim]:
    """What is taught of gradients, and of their remedies."""
    profiles = data["profiles"]
    pairs = [each for scales in profiles.values() for each in scales.values()]
    errors = [abs(each["measured_per_layer"] / each["predicted_per_layer"] - 1) for each in pairs]
    low, high = (
        {name: scales[f"{scale:g}"]["measured_per_layer"] for name, scales in profiles.items()}
        for scale in (SCALES[0], SCALES[-1])
    )

    def told(rates: dict[str, float]) -> str:
        return ", ".join(f"{name} {rate:.2g}" for name, rate in rates.items())

    return [
        Claim.of(
            "gradients vanish with depth when weights are small.",
            f"energy per layer at σ_w² = {SCALES[0]:g}: {told(low)}.",
            [rate < 1 for rate in low.values()],
        ),
        Claim.of(
            "gradients explode with depth when weights are large.",
            f"energy per layer at σ_w² = {SCALES[-1]:g}: {told(high)}. The slope of a sigmoid is at most "
            "1/4, so "
            "that it would take σ_w² = 16 or more.",
            [rate > 1 for rate in high.values()],
        ),
        Claim.of(
            f"mean-field theory predicts the factor per layer within {100 * CLOSE:.0f} % at width {WIDTH}.",
            f"largest error {100 * max(errors):.1f} %, median {100 * float(np.median(errors)):.1f} %.",
            [error < CLOSE for error in errors],
        ),
        *of_remedies(list(data["remedies"].values()), data["too large"]),
    ]


def of_remedies(cases: list[dict[str, Any]], nan: dict[str, Any]) -> list[Claim]:
    """The claims of clipping, of activations, and of networks that are far too large."""
    learns = [case["accuracy"]["mean"] > CHANCE for case in cases]
    said = [
        f"{percent(case['accuracy'])} % ({sum(case['finite'])} of {len(case['finite'])} losses finite)"
        for case in cases
    ]
    return [
        Claim.of(
            "clipping the gradient's norm (`optax.clip_by_global_norm`) mends explosion.",
            f"without {said[0]}, with {said[1]}.",
            [not learns[0], learns[1]],
        ),
        Claim.of(
            "another activation mends vanishing.",
            f"sigmoid {said[2]}; ReLU {said[3]}; tanh {said[4]}.",
            [not learns[2], learns[3], learns[4]],
        ),
        Claim.of(
            "a network that is far too large gives NaN, and clipping does not help.",
            f"outputs of {DEPTH} layers at σ = 100 hold NaN: {'yes' if nan['outputs_nan'] else 'no'}; the "
            "first site "
            f"that `jinit.diagnose` calls nonfinite is {nan['first_site']}. Ten layers train to "
            f"{said[5]}, clipped to "
            f"{said[6]}.",
            [nan["outputs_nan"], nan["first_site"] is not None, not learns[5], not learns[6]],
        ),
    ]


def tables(data: dict[str, Any]) -> Iterator[str]:
    """Factors per layer; remedies."""
    rows = [
        [
            name,
            *(
                f"{each['measured_per_layer']:.3g} ({each['predicted_per_layer']:.3g})"
                for each in scales.values()
            ),
        ]
        for name, scales in data["profiles"].items()
    ]
    head = ["gradient energy per layer: measured (predicted)", *(f"σ_w² = {scale:g}" for scale in SCALES)]
    yield table(head, rows)
    rows = [
        [name, percent(each["accuracy"]), f"{sum(each['finite'])} of {len(each['finite'])}"]
        for name, each in data["remedies"].items()
    ]
    yield table(["training of ten layers", "accuracy, %", "finite losses"], rows)


def draw(data: dict[str, Any], figure: Any) -> None:
    """Profiles over depth, one panel an activation."""
    panels = figure.subplots(1, len(data["profiles"]), sharey=True)
    for axes, (name, scales) in zip(panels, data["profiles"].items(), strict=True):
        for i, (scale, each) in enumerate(scales.items()):
            axes.plot(each["measured"], ".", color=f"C{i}", ms=4)
            axes.plot(each["predicted"], "-", color=f"C{i}", lw=1, label=f"σ_w² = {scale}")
        axes.set(title=name, xlabel="hidden layer")
    panels[0].set_ylabel("log₁₀ gradient energy\nover the last layer's")
    panels[-1].legend(fontsize="x-small")
