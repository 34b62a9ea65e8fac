"""Every test runs strictly: no implicit dtype or rank promotion, and eight CPU devices to shard over.

`JAX_PLATFORMS` is left alone, so that the suite runs on a machine with an accelerator too. The eight devices
are `jax.devices("cpu")` there. Programs are compiled without XLA's optimizations, twice as fast, unless
`XLA_FLAGS` says otherwise; CI runs the slow tests with them too.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator

# Read when the backend starts, so set before JAX is imported.
for flag, value in (("xla_force_host_platform_device_count", 8), ("xla_backend_optimization_level", 0)):
    if flag not in (given := os.environ.get("XLA_FLAGS", "")):
        os.environ["XLA_FLAGS"] = f"{given} --{flag}={value}".strip()
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as many processes as cores: they would wait

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Bounds are for float32, and a GPU takes products of it in TF32 by default: 10 bits instead of 23. On a CPU
# results are the same bit for bit with this and without.
jax.config.update("jax_default_matmul_precision", "highest")


# Cases of one test that run by default, evenly spaced among all; the others are `slow`.
MOST_CASES = 3


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the default suite short: of a test of many cases it runs a few."""
    families = collections.defaultdict(list)
    for item in items:
        if hasattr(item, "callspec") and item.get_closest_marker("slow") is None:
            families[item.nodeid.split("[")[0]].append(item)
    for cases in families.values():
        spaced = {i * (len(cases) - 1) // (MOST_CASES - 1) for i in range(MOST_CASES)}
        for i, item in enumerate(cases):
            if i not in spaced:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Gives a test marked `standard_promotion` JAX's usual rules: the code it calls is not ours to mend."""
    if request.node.get_closest_marker("standard_promotion") is None:
        yield
        return
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def on_cpu(cpus: list[jax.Device]) -> Iterator[None]:
    """Computes on a CPU, whatever the default backend is.

    For tests that compare bits with those on the CPU devices, or of one formula in two programs: a GPU rounds
    divisions and roots otherwise than the compiler does where it knows the operands.
    """
    with jax.default_device(cpus[0]):
        yield


@pytest.fixture(scope="session")
def cpus() -> list[jax.Device]:
    """Eight CPU devices, whatever the default backend is."""
    return jax.devices("cpu")[:8]
