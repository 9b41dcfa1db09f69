"""config.json of Hugging Face, read into a decoder and written from one.

What is read, is read as `transformers` reads it: its classes' defaults stand
for what a file leaves out.  What is neither read nor known to be without
effect on the numbers is refused by its name.
"""

import dataclasses
import pathlib
from typing import Any

from grounded_jax import config
from grounded_jax.records import UserError
from grounded_jax.weights import checkpoint

Settings = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Family:
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
_FAMILIES = {
  "LlamaForCausalLM": _Family(model_type="llama", defaults=_LLAMA),
  "Qwen2ForCausalLM": _Family(
    model_type="qwen2", defaults=_QWEN, decoder={"qkv_bias": True}
  ),
  "Qwen3ForCausalLM": _Family(
    model_type="qwen3",
    defaults=_QWEN | {"head_dim": 128},
    decoder={"qk_norm": True},
  ),
  "MistralForCausalLM": _Family(
    model_type="mistral",
    defaults=_LLAMA | {"num_key_value_heads": 8, "sliding_window": 4096},
  ),
  "SmolLM3ForCausalLM": _Family(
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
  "Gemma2ForCausalLM": _Family(
    model_type="gemma2",
    defaults=_GEMMA
    | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    decoder=_GEMMA_DECODER,
    gate="hidden_activation",
  ),
  "Gemma3ForCausalLM": _Family(
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
_SIZES = (
  *("vocab_size", "hidden_size", "intermediate_size"),
  *("num_hidden_layers", "num_attention_heads"),
)
_ROPE = ("rope_scaling", "rope_parameters", "max_position_embeddings")
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu"}
# Without effect on what a forward pass computes, or read elsewhere.
_INERT = {
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
_ONE_VALUE = {"pretraining_tp": 1, "partial_rotary_factor": 1.0}
# What a kind of rotary scaling is made of, and our names for it.
_SCALINGS = {
  "default": {},
  "linear": {"factor": "rope_factor"},
  "llama3": {
    "factor": "rope_factor",
    "low_freq_factor": "rope_low",
    "high_freq_factor": "rope_high",
    "original_max_position_embeddings": "rope_original",
  },
}


def decoder(path: pathlib.Path, settings: Settings) -> config.Decoder:
  """The decoder that the contents of a config.json describe.

  Raises:
    UserError: another architecture, or a field or value that the decoder has
      no place for, by its name.
  """
  names = settings.get("architectures") or ["none stated"]
  if names[0] not in _FAMILIES:
    raise UserError(
      f"{path} describes a model of the architecture {names[0]}; supported are"
      f" {', '.join(_FAMILIES)}."
    )
  family = _FAMILIES[names[0]]
  try:
    _refuse(family, settings)
    known = family.defaults | settings
    fields = {
      **family.decoder,
      **_sizes(known),
      **_rope(family, known),
      **_kinds(family, known),
    }
  except KeyError as error:
    raise UserError(f"{path} has no field {error.args[0]!r}.") from None
  except UserError as error:
    raise UserError(f"{path}: {error}") from None
  return checkpoint.make_decoder(path, **fields)


def _unsupported(name: str, value: Any) -> UserError:
  return UserError(f"{name}={value!r} is not supported.")


def _refuse(family: _Family, settings: Settings) -> None:
  """Raises UserError for what the decoder would silently leave out."""
  kind = settings.get("model_type", family.model_type)
  if kind != family.model_type:
    raise _unsupported("model_type", kind)
  for name in ("hidden_act", "hidden_activation"):
    wanted = family.decoder.get("activation", "silu")
    value = settings.get(name)
    if value is not None and _ACTIVATIONS.get(value) != wanted:
      raise _unsupported(name, value)
  read = {"hidden_act", "hidden_activation", *_SIZES, *_ROPE, *family.defaults}
  for name, value in settings.items():
    if name == "layer_types" and name not in read:
      others = set(value or ()) - {"full_attention"}
      if others:
        raise UserError(f"layer type {min(others)!r} is not supported.")
    elif name in _ONE_VALUE:
      if value not in (None, _ONE_VALUE[name]):
        raise _unsupported(name, value)
    elif name not in read | _INERT and value and not name.startswith("_"):
      raise _unsupported(name, value)


def _sizes(known: Settings) -> Settings:
  heads, embed = known["num_attention_heads"], known["hidden_size"]
  softcap = lambda name: float(known.get(name) or 0.0)
  return {
    "layers": known["num_hidden_layers"],
    "embed": embed,
    "mlp": known["intermediate_size"],
    "heads": heads,
    "kv_heads": known["num_key_value_heads"] or heads,
    "head_dim": known["head_dim"] or embed // heads,
    "vocab": known["vocab_size"],
    "norm_eps": float(known["rms_norm_eps"]),
    "tied": known["tie_word_embeddings"],
    "query_scalar": float(known.get("query_pre_attn_scalar") or 0.0),
    "attn_softcap": softcap("attn_logit_softcapping"),
    "final_softcap": softcap("final_logit_softcapping"),
  }


def _rope(family: _Family, known: Settings) -> Settings:
  """Rotary base and scaling, in the form of any release of transformers."""
  # transformers 5 writes rope_parameters, older releases rope_scaling.
  new, old = known.get("rope_parameters"), known.get("rope_scaling")
  if new and old:
    raise UserError("rope_parameters and rope_scaling are both there.")
  source = "rope_parameters" if new else "rope_scaling"
  whole = dict(new or old or {})
  by_kind = "rope_local_base_freq" in family.defaults
  if new and by_kind:
    local = dict(whole.pop("sliding_attention", None) or {})
    rest = dict(whole.pop("full_attention", None) or {})
    if whole:
      raise _unsupported(source, new)
  else:
    local, rest = {}, whole
  theta = float(rest.pop("rope_theta", None) or known["rope_theta"])
  out = {"rope_theta": theta} | _scaling(source, rest, known)
  if by_kind:
    base = local.pop("rope_theta", None) or known["rope_local_base_freq"]
    if _scaling(source, local, known) != {"rope_scaling": "none"}:
      raise UserError(f"{source} of local layers {local} is not supported.")
    out["local_rope_theta"] = float(base)
  return out


def _scaling(source: str, rope: Settings, known: Settings) -> Settings:
  rope = dict(rope)
  kinds = [rope.pop(name, None) for name in ("rope_type", "type")]
  kind = kinds[0] or kinds[1] or "default"
  if kind not in _SCALINGS:
    raise UserError(f"{source} of type {kind!r} is not supported.")
  if rope.pop("partial_rotary_factor", None) not in (None, 1.0):
    raise UserError(f"{source}: partial_rotary_factor is not supported.")
  for name in rope:
    if name not in _SCALINGS[kind]:
      raise _unsupported(f"{source} of type {kind!r}: {name}", rope[name])
  if kind == "llama3" and "original_max_position_embeddings" not in rope:
    rope["original_max_position_embeddings"] = known["max_position_embeddings"]
  out = {"rope_scaling": "none" if kind == "default" else kind}
  for theirs, ours in _SCALINGS[kind].items():
    number = int if ours == "rope_original" else float
    out[ours] = number(rope[theirs])
  return out


def _kinds(family: _Family, known: Settings) -> Settings:
  """The pattern of layers and the window of local ones."""
  layers = known["num_hidden_layers"]
  if not 0 < layers <= 10_000:  # refused where the decoder is made
    return {}
  window = known.get("sliding_window")
  local = _local_layers(family, known, layers)
  if any(local) and not window:
    raise _unsupported("sliding_window", window)
  smollm3 = family.model_type == "smollm3"
  turned = _turned(known, layers) if smollm3 else [1] * layers
  letters = [
    ("L" if near else "G") if turns else ("l" if near else "g")
    for near, turns in zip(local, turned, strict=True)
  ]
  pattern = _shortest("".join(letters))
  return {"pattern": pattern, "window": window if any(local) else 0}


def _check_length(name: str, values: list, layers: int) -> None:
  if len(values) < layers:
    raise UserError(f"{name} names {len(values)} of {layers} layers.")


def _local_layers(family: _Family, known: Settings, layers: int) -> list[bool]:
  """Which layers see a window only."""
  kind = family.model_type
  if kind == "mistral":
    return [known["sliding_window"] is not None] * layers
  if "sliding_window" not in family.defaults:
    return [False] * layers
  may = known.get("use_sliding_window", True)
  types = known["layer_types"]
  if types:
    _check_length("layer_types", types, layers)
    others = set(types) - {"full_attention", "sliding_attention"}
    if others:
      raise UserError(f"layer type {min(others)!r} is not supported.")
    if not may and "sliding_attention" in types:
      raise UserError("layer_types does not fit use_sliding_window=False.")
    return [t == "sliding_attention" for t in types[:layers]]
  if not may:
    return [False] * layers
  if kind.startswith("gemma"):
    step = known.get("sliding_window_pattern", 2)
    return [(i + 1) % step != 0 for i in range(layers)]
  if kind == "smollm3":  # the layers without rotary positions
    turned = _turned(known, layers)
    return [known["sliding_window"] is not None and not t for t in turned]
  first = known["max_window_layers"]
  return [
    known["sliding_window"] is not None and i >= first for i in range(layers)
  ]


def _turned(known: Settings, layers: int) -> list[int]:
  """Which layers of SmolLM3 have rotary positions."""
  step = known["no_rope_layer_interval"]
  turned = known["no_rope_layers"]
  turned = turned or [int((i + 1) % step != 0) for i in range(layers)]
  _check_length("no_rope_layers", turned, layers)
  return turned[:layers]


def _shortest(kinds: str) -> str:
  """The shortest pattern that repeats to `kinds`."""
  for size in range(1, len(kinds) + 1):
    if (kinds[:size] * len(kinds))[: len(kinds)] == kinds:
      return kinds[:size]
  return kinds


def settings(decoder_: config.Decoder, dtype: str) -> Settings:
  """The config.json of a decoder, in the names that all releases read.

  Raises:
    UserError: no family of transformers computes this decoder.
  """
  wanted = _canonical(decoder_)
  for name, family in _FAMILIES.items():
    out = _settings(name, family, wanted) | {"torch_dtype": dtype}
    if _holds(out, wanted):
      return out
  raise UserError(
    "no architecture of transformers has this combination of model.decoder's"
    f" fields: {decoder_}."
  )


def _canonical(decoder_: config.Decoder) -> config.Decoder:
  """The one of equal decoders that the others are written as."""
  scalar = decoder_.query_scalar
  return dataclasses.replace(
    decoder_,
    pattern=_shortest(decoder_.kinds),
    query_scalar=0.0 if scalar == decoder_.head_dim else scalar,
  )


def _holds(out: Settings, wanted: config.Decoder) -> bool:
  try:
    return _canonical(decoder(pathlib.Path("config.json"), out)) == wanted
  except UserError:
    return False


def _settings(name: str, family: _Family, wanted: config.Decoder) -> Settings:
  """What a family would say of the decoder, as far as it has the fields."""
  local = [kind in "Ll" for kind in wanted.kinds]
  kinds = ["sliding_attention" if x else "full_attention" for x in local]
  activation = wanted.activation
  every = {
    "num_key_value_heads": wanted.kv_heads,
    "head_dim": wanted.head_dim,
    "rms_norm_eps": wanted.norm_eps,
    "rope_theta": wanted.rope_theta,
    "tie_word_embeddings": wanted.tied,
    "query_pre_attn_scalar": wanted.query_scalar or wanted.head_dim,
    "attn_logit_softcapping": wanted.attn_softcap or None,
    "final_logit_softcapping": wanted.final_softcap or None,
    "rope_local_base_freq": wanted.local_rope_theta or wanted.rope_theta,
    "use_sliding_window": any(local),
    "sliding_window": wanted.window or None,
    "layer_types": kinds,
    "no_rope_layers": [int(kind.isupper()) for kind in wanted.kinds],
  }
  scaling = _SCALINGS.get(wanted.rope_scaling, {})
  rope = {theirs: vars(wanted)[ours] for theirs, ours in scaling.items()}
  theirs = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
  return {
    "architectures": [name],
    "model_type": family.model_type,
    "vocab_size": wanted.vocab,
    "hidden_size": wanted.embed,
    "intermediate_size": wanted.mlp,
    "num_hidden_layers": wanted.layers,
    "num_attention_heads": wanted.heads,
    **{k: v for k, v in every.items() if k in family.defaults},
    "rope_scaling": {"rope_type": wanted.rope_scaling, **rope}
    if rope
    else None,
    family.gate: theirs[activation],
    "attention_bias": False,
  }
