"""The zoo, predicted: every site has finite moments, or the prediction is refused by name."""

from __future__ import annotations

import jax.tree_util
import numpy as np
import pytest

import jinit
from tests.zoo import ZOO

# Some that compile quickly; the others are marked slow.
QUICK = ["mlp", "one_hot_lookup", "power_iteration", "equinox_conv"]
SLOW = [
    "conv_grouped",
    "scan_with_outputs",
    "jit_with_shardings",
    "cnn_train",
    "cnn_eval",
    "residual_block",
    "attention",
    "tied_embedding",
    "dropout",
    "learned_positions",
    "several_inputs_and_outputs",
    "bfloat16_compute",
    "rnn_gru",
    "scanned_stack",
    "nested_scan",
    "fori_loop",
    "custom_vjp",
    "hypernetwork",
    "gradient_inside",
    "weight_and_spectral_norm",
    "drop_connect",
    "message_passing",
    "nnx_cnn_train",
    "nnx_scan",
    "haiku_convnet",
    "equinox_attention",
    "conv_transposed",
    "dense_general_batch",
    "low_rank_product",
    "lax_map",
    "empty_batch",
]
# What the message names.
REFUSED = {
    "while_loop": "while_loop", "cond": "cond", "switch": "cond", "mixture_of_experts": "top_k",
    "ragged_experts": "ragged_dot", "complex_parameters": "complex", "data_parallel": "shard_map",
}  # fmt: skip


def check(name):
    member = ZOO[name]
    with member.promotion():
        apply, params, inputs, kwargs = member.make()
        records = jinit.predict(apply, backward=member.backward)(params, *inputs, **kwargs)
    assert tuple(records) == member.sites
    if name != "empty_batch":
        assert all(np.all(np.isfinite(x)) for x in jax.tree_util.tree_leaves(records))


@pytest.mark.parametrize("name", QUICK)
def test_followed(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_followed_slowly(name):
    check(name)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    with pytest.raises(
        NotImplementedError, match=rf"(?s)must have a law; got none, since .*{REFUSED[name]}.*\.py:"
    ):
        check(name)
