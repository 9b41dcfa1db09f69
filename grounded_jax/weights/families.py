"""What config.json of each supported architecture may hold, and what it means.

The defaults are those of the classes of `transformers`.
"""

import dataclasses
from typing import Any

Settings = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """An architecture: its fields' defaults, and what all its models have."""

  model_type: str
  defaults: Settings  # of fields that the decoder depends on
  decoder: Settings = dataclasses.field(default_factory=dict)
  gate: str = "hidden_act"  # the field that names the activation


_LLAMA = {
  "num_key_value_heads": None,
  "head_dim": None,
  "rms_norm_eps": 1e-6,
  "rope_theta": 10_000.0,
  "tie_word_embeddings": False,
}
_QWEN = _LLAMA | {
  "num_key_value_heads": 32,
  "use_sliding_window": False,
  "sliding_window": 4096,
  "max_window_layers": 28,
  "layer_types": None,
}
_GEMMA = _LLAMA | {
  "num_key_value_heads": 4,
  "head_dim": 256,
  "tie_word_embeddings": True,
  "query_pre_attn_scalar": 256,
  "sliding_window": 4096,
  "layer_types": None,
}
_GEMMA_DECODER = {
  "activation": "gelu",
  "post_norms": True,
  "plus_one": True,
  "scaled_embed": True,
}
FAMILIES = {
  "LlamaForCausalLM": Family(model_type="llama", defaults=_LLAMA),
  "Qwen2ForCausalLM": Family(
    model_type="qwen2", defaults=_QWEN, decoder={"qkv_bias": True}
  ),
  "Qwen3ForCausalLM": Family(
    model_type="qwen3",
    defaults=_QWEN | {"head_dim": 128},
    decoder={"qk_norm": True},
  ),
  "MistralForCausalLM": Family(
    model_type="mistral",
    defaults=_LLAMA | {"num_key_value_heads": 8, "sliding_window": 4096},
  ),
  "SmolLM3ForCausalLM": Family(
    model_type="smollm3",
    defaults=_LLAMA
    | {
      "num_key_value_heads": 4,
      "rope_theta": 2_000_000.0,
      "tie_word_embeddings": True,
      "use_sliding_window": False,
      "sliding_window": None,
      "no_rope_layers": None,
      "no_rope_layer_interval": 4,
      "layer_types": None,
    },
  ),
  "Gemma2ForCausalLM": Family(
    model_type="gemma2",
    defaults=_GEMMA
    | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    decoder=_GEMMA_DECODER,
    gate="hidden_activation",
  ),
  "Gemma3ForCausalLM": Family(
    model_type="gemma3_text",
    defaults=_GEMMA
    | {
      "rope_theta": 1_000_000.0,
      "rope_local_base_freq": 10_000.0,
      "sliding_window_pattern": 6,
      "final_logit_softcapping": None,
    },
    decoder=_GEMMA_DECODER | {"qk_norm": True},
    gate="hidden_activation",
  ),
}
SIZES = (
  *("vocab_size", "hidden_size", "intermediate_size"),
  *("num_hidden_layers", "num_attention_heads"),
)
ROPE = ("rope_scaling", "rope_parameters", "max_position_embeddings")
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu"}
# Without effect on what a forward pass computes, or read elsewhere.
INERT = {
  *("architectures", "model_type", "dtype", "torch_dtype", "use_cache"),
  *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id"),
  *("bos_token", "eos_token", "pad_token", "unk_token_id", "name_or_path"),
  *("attention_dropout", "initializer_range", "transformers_version"),
  *("cache_implementation", "attn_implementation", "tokenizer_class"),
  *("id2label", "label2id", "problem_type", "return_dict", "is_llama_config"),
  *("max_length", "min_length", "do_sample", "temperature", "top_k", "top_p"),
  *("chunk_size_feed_forward", "task_specific_params", "num_return_sequences"),
  *("output_attentions", "output_hidden_states", "unsloth_fixed"),
  *("unsloth_version", "transformers.js_config"),
}
# Fields that stand for one thing only.
ONE_VALUE = {"pretraining_tp": 1, "partial_rotary_factor": 1.0}
# What a kind of rotary scaling is made of, and our names for it.
SCALINGS = {
  "default": {},
  "linear": {"factor": "rope_factor"},
  "llama3": {
    "factor": "rope_factor",
    "low_freq_factor": "rope_low",
    "high_freq_factor": "rope_high",
    "original_max_position_embeddings": "rope_original",
  },
}
