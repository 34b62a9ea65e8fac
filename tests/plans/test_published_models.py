"""Every parameter of published Flax models has the role that its name tells. Needs `transformers` 4."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import pytest

import jinit

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="the published models need `transformers` 4")
if not hasattr(transformers, "FlaxBertModel"):
    pytest.skip("transformers 5 has no Flax models", allow_module_level=True)

from tests.signals.test_published_models import IDS, MODELS, build, fill, old_clip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.standard_promotion,
    pytest.mark.filterwarnings("ignore"),
]
assert old_clip is not None  # a fixture

WHISPER = {
    "vocab_size": 11, "num_mel_bins": 6, "d_model": 8, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12, "decoder_ffn_dim": 12,
    "max_source_positions": 8, "max_target_positions": 9, "decoder_start_token_id": 1, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
BY_NAME = {"kernel": "kernel", "embedding": "embedding", "bias": "bias", "scale": "scale"}
# Those whose name does not tell; the sinusoids of Whisper's encoder are added as they are, and frozen.
NAMED = {
    "weight": "scale", "logit_scale": "scale", "cls_token": "other", "class_embedding": "other",
    "position_embeddings": "other", "mean": "other", "var": "other",
    "weight_v": "kernel", "weight_g": "scale", "masked_spec_embed": "unused",
    "model/encoder/embed_positions/embedding": "other",
}  # fmt: skip


def whisper():
    config = transformers.WhisperConfig(**WHISPER)
    model = transformers.FlaxWhisperForConditionalGeneration(config, _do_init=False)
    shapes = jax.eval_shape(lambda: model.init_weights(jax.random.PRNGKey(0), model.input_shape))
    inputs = {"input_features": jnp.ones((2, 6, 16)), "decoder_input_ids": IDS}
    return lambda params, **inputs: model(**inputs, params=params), fill(shapes), inputs


def fans_of(use):
    """What the shape of a kernel of these models means: GPT-2 alone stores its matrices transposed."""
    if "/c_" in use.path:
        return use.shape[1], use.shape[0]
    *window, into, out = use.shape
    field = int(jnp.prod(jnp.array(window, int)))
    return field * into, field * out


@pytest.mark.parametrize("name", [*MODELS, "whisper"])
@pytest.mark.usefixtures("old_clip")
def test_roles_and_fans(name):
    apply, params, inputs = whisper() if name == "whisper" else build(name)
    for use in jinit.audit(apply)(params, **inputs):
        last = use.path.split("/")[-1]
        assert use.role == (NAMED.get(use.path) or NAMED.get(last) or BY_NAME[last]), use
        if last == "kernel":
            fan_in, fan_out = fans_of(use)
            assert use.fan_in == fan_in, use
            assert fan_out % use.fan_out == 0, use  # less by the strides
        elif last == "weight_v":
            assert (use.fan_in, use.fan_out, use.batch_axes) == (4 * 4, 4 * 4, (0,))
