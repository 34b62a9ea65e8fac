"""Real data that a package ships or generates: nothing is downloaded."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CLASSES = 10


class Data(NamedTuple):
    """Examples to train on and to test on; inputs have mean 0 and variance 1 over all examples."""

    x: jax.Array  # float32 [n, features]
    y: jax.Array  # int32 [n]
    x_test: jax.Array
    y_test: jax.Array

    def where(self, keep: np.ndarray) -> Data:
        """Only the examples of these classes, labels unchanged."""
        train, test = np.isin(self.y, keep), np.isin(self.y_test, keep)
        return Data(self.x[train], self.y[train], self.x_test[test], self.y_test[test])


def split(x: np.ndarray, y: np.ndarray, test: int) -> Data:
    """The last `test` examples held out; inputs standardized by one mean and one deviation."""
    x = (x - x.mean()) / x.std()
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32)
    return Data(x[:-test], y[:-test], x[-test:], y[-test:])


@functools.cache
def digits() -> Data:
    """scikit-learn's 8×8 handwritten digits: 1437 to train on, 360 to test on."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return split(x[order], y[order], 360)


@functools.cache
def mnist1d(samples: int = 5000) -> Data:
    """MNIST-1D (Greydanus and Kobak 2020): 40 numbers a digit, made by its package from its own seed.

    A network without any nonlinearity gets a third of it right, and a multilayer perceptron two thirds.
    """
    from mnist1d.data import get_dataset_args, make_dataset

    arguments = get_dataset_args()
    arguments.num_samples = samples
    before = np.random.get_state()  # noqa: NPY002 - the package seeds NumPy's global generator
    made = make_dataset(arguments)
    np.random.set_state(before)  # noqa: NPY002
    x, y = (np.concatenate([made[name], made[f"{name}_test"]]) for name in ("x", "y"))
    return split(x, y, samples // 5)


DATA = {"digits": digits, "mnist1d": mnist1d}
