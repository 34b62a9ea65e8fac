"""Published Flax models, at toy size: every kernel and embedding has a site. Needs `transformers` 4."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.jaxprs.paths import leaf_paths
from tests.zoos.member import fill

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="the published models need `transformers` 4")
if not hasattr(transformers, "FlaxBertModel"):
    pytest.skip("transformers 5 has no Flax models", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.standard_promotion,
    pytest.mark.filterwarnings("ignore"),
]

IDS = jnp.array([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]])
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 16, 16)), jnp.float32)
SOUND = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64)), jnp.float32)
SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
TEXT = {**SMALL, "vocab_size": 11, "max_position_embeddings": 9}
VISION = {**SMALL, "image_size": 16, "patch_size": 4}
HEARING = {
    **SMALL, "vocab_size": 11, "conv_dim": (4, 4), "conv_stride": (2, 2), "conv_kernel": (3, 3),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    "do_stable_layer_norm": True, "feat_extract_norm": "layer",
}  # fmt: skip

# model, configuration, its options, inputs, number of sites
MODELS = {
    "bert": ("FlaxBertModel", "BertConfig", TEXT, {"input_ids": IDS}, 3 + 2 * 6 + 1),
    "gpt2": (
        "FlaxGPT2LMHeadModel", "GPT2Config",
        {"vocab_size": 11, "n_positions": 9, "n_embd": 8, "n_layer": 2, "n_head": 2},
        {"input_ids": IDS}, 2 + 2 * 4 + 1,
    ),
    "vit": ("FlaxViTModel", "ViTConfig", VISION, {"pixel_values": IMAGE}, 1 + 2 * 6 + 1),
    "resnet": (
        "FlaxResNetModel", "ResNetConfig", {"embedding_size": 4, "hidden_sizes": [8, 16], "depths": [1, 2]},
        {"pixel_values": IMAGE}, 1 + 3 * 3 + 2,
    ),
    "t5": (
        "FlaxT5ForConditionalGeneration", "T5Config",
        {"vocab_size": 11, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2,
         "decoder_start_token_id": 0},
        {"input_ids": IDS, "decoder_input_ids": IDS}, None,
    ),
    "clip": (
        "FlaxCLIPModel", "CLIPConfig", {"text_config": TEXT, "vision_config": VISION, "projection_dim": 6},
        {"input_ids": IDS, "pixel_values": IMAGE}, 2 * (2 + 2 * 6 + 1),
    ),
    "wav2vec2": ("FlaxWav2Vec2Model", "Wav2Vec2Config", HEARING, {"input_values": SOUND}, 2 + 1 + 1 + 2 * 6),
}  # fmt: skip


def build(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """`(apply, params, inputs)` of a model, its parameters filled in by shape alone."""
    model_name, config_name, options, inputs, _ = MODELS[name]
    shape = {"input_shape": (1, 64)} if name == "wav2vec2" else {}
    config = getattr(transformers, config_name)(**options)
    model = getattr(transformers, model_name)(config, _do_init=False, **shape)
    shapes = jax.eval_shape(lambda: model.init_weights(jax.random.PRNGKey(0), model.input_shape))
    return lambda params, **inputs: model(**inputs, params=params), fill(shapes), inputs


@pytest.fixture
def old_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """`jnp.clip` with the argument names it had when these models were written."""
    clip = jnp.clip
    monkeypatch.setattr(
        jnp, "clip", lambda x, min=None, max=None, *, a_min=None, a_max=None: clip(
            x, a_min if min is None else min, a_max if max is None else max
        ),
    )  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("old_clip")
def test_every_kernel_has_a_site(name):
    apply, params, inputs = build(name)
    outputs, records = jinit.measure(apply)(params, **inputs)
    sites = [k for k, r in records.items() if not r.note.startswith("not followed")]
    named = {k.split("#")[0] for k in sites}
    weights = {p for p in leaf_paths(params) if p.split("/")[-1] in ("kernel", "embedding")}
    assert weights <= named
    expected = MODELS[name][-1]
    assert expected is None or len(sites) == expected
    for x, y in zip(jax.tree.leaves(outputs), jax.tree.leaves(jax.jit(apply)(params, **inputs)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3)
