"""config.json of Hugging Face, written from a decoder."""

import dataclasses
import pathlib

from grounded_jax import config
from grounded_jax.records import UserError
from grounded_jax.weights import families, hf_config
from grounded_jax.weights.families import Settings


def settings(decoder: config.Decoder, dtype: str) -> Settings:
  """The config.json of a decoder, in the names that all releases read.

  Raises:
    UserError: no family of transformers computes this decoder.
  """
  wanted = _canonical(decoder)
  for name, family in families.FAMILIES.items():
    # A family's own padding token may lie outside the vocabulary.
    beside = {"torch_dtype": dtype, "pad_token_id": None}
    out = _settings(name, family, wanted) | beside
    if _holds(out, wanted):
      return out
  raise UserError(
    "no architecture of transformers has this combination of model.decoder's"
    f" fields: {decoder}."
  )


def _canonical(decoder: config.Decoder) -> config.Decoder:
  """The one of equal decoders that the others are written as."""
  scalar = decoder.query_scalar
  return dataclasses.replace(
    decoder,
    pattern=hf_config.shortest(decoder.kinds),
    query_scalar=0.0 if scalar == decoder.head_dim else scalar,
  )


def _holds(out: Settings, wanted: config.Decoder) -> bool:
  try:
    return (
      _canonical(hf_config.decoder(pathlib.Path("config.json"), out)) == wanted
    )
  except UserError:
    return False


def _settings(
  name: str, family: families.Family, wanted: config.Decoder
) -> Settings:
  """What a family would say of the decoder, as far as it has the fields."""
  local = [kind in "Ll" for kind in wanted.kinds]
  kinds = ["sliding_attention" if x else "full_attention" for x in local]
  # transformers 5 refuses a whole number that is written as a float.
  scalar = wanted.query_scalar or wanted.head_dim
  every = {
    "num_key_value_heads": wanted.kv_heads,
    "head_dim": wanted.head_dim,
    "rms_norm_eps": wanted.norm_eps,
    "rope_theta": wanted.rope_theta,
    "tie_word_embeddings": wanted.tied,
    "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
    "attn_logit_softcapping": wanted.attn_softcap or None,
    "final_logit_softcapping": wanted.final_softcap or None,
    "rope_local_base_freq": wanted.local_rope_theta or wanted.rope_theta,
    "use_sliding_window": any(local),
    "sliding_window": wanted.window or None,
    "layer_types": kinds,
    "no_rope_layers": [int(kind.isupper()) for kind in wanted.kinds],
  }
  scaling = families.SCALINGS.get(wanted.rope_scaling, {})
  rope = {theirs: vars(wanted)[ours] for theirs, ours in scaling.items()}
  theirs = {ours: theirs for theirs, ours in families.ACTIVATIONS.items()}
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
    family.gate: theirs[wanted.activation],
    "attention_bias": False,
  }
