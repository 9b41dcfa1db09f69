"""Hugging Face directories: config.json and weights in, safetensors out."""

import pathlib
from typing import Any

from grounded_jax import config
from grounded_jax.records import UserError, reading
from grounded_jax.weights import checkpoint, stored, table

_ARCHITECTURES = {
  "LlamaForCausalLM": False,
  "Qwen3ForCausalLM": True,
}  # QK norm
# What a field must be for the decoder to compute the model; absent is fine.
_REQUIRED = {
  "hidden_act": ("silu",),
  "attention_bias": (False,),
  "mlp_bias": (False,),
  "use_sliding_window": (False,),
  "quantization_config": (None,),
  "partial_rotary_factor": (None, 1.0),
  "pretraining_tp": (None, 1),
}


def read(path: pathlib.Path) -> checkpoint.Checkpoint:
  """The model in a directory with config.json and weights.

  Raises:
    UserError: files are missing or broken, or a model that the decoder cannot
      be; the sentence names the file or the field.
  """
  settings = path / "config.json"
  with reading(str(settings), "fetch it again"):
    decoder = _decoder(settings)
  tensors = stored.tensors(path)
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  # A tied model may still hold its head, and old ones their rotary tables.
  unused = lambda name: name == "lm_head.weight" or name.endswith(".inv_freq")
  rows, sizes = table.rows(decoder), table.sizes(decoder)
  checkpoint.check(path, rows, sizes, shapes, unused)
  return checkpoint.Checkpoint(
    path=path, decoder=decoder, tensor=tensors.__getitem__
  )


def save(
  path: pathlib.Path,
  decoder: config.Decoder,
  params: dict[str, Any],
  dtype: str = "",
) -> None:
  """Writes config.json and model.safetensors, as transformers reads them.

  Args:
    path: a directory, made if it does not exist.
    decoder: the model's shape; Qwen3's layout if it has QK norms.
    params: the parameter tree.
    dtype: stored as, "" = as the parameters are.
  """
  sizes = table.sizes(decoder)
  tensors = table.stored_tree(table.rows(decoder), sizes, params, dtype)
  held = next(iter(tensors.values())).dtype.name
  stored.save(path, tensors, _settings(decoder, held))


def _settings(decoder: config.Decoder, dtype: str) -> dict[str, Any]:
  architecture = "Qwen3" if decoder.qk_norm else "Llama"
  return {
    "architectures": [f"{architecture}ForCausalLM"],
    "model_type": architecture.lower(),
    "vocab_size": decoder.vocab,
    "hidden_size": decoder.embed,
    "intermediate_size": decoder.mlp,
    "num_hidden_layers": decoder.layers,
    "num_attention_heads": decoder.heads,
    "num_key_value_heads": decoder.kv_heads,
    "head_dim": decoder.head_dim,
    "rope_theta": decoder.rope_theta,
    "rms_norm_eps": decoder.norm_eps,
    "tie_word_embeddings": decoder.tied,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": dtype,
  }


def _decoder(path: pathlib.Path) -> config.Decoder:
  settings = stored.json_of(path)
  names = settings.get("architectures") or ["none stated"]
  if names[0] not in _ARCHITECTURES:
    raise UserError(
      f"{path} describes a model of the architecture {names[0]}; supported are"
      f" {', '.join(_ARCHITECTURES)}."
    )
  for name, allowed in _REQUIRED.items():
    if name in settings and settings[name] not in allowed:
      raise UserError(f"{path}: {name}={settings[name]!r} is not supported.")
  kinds = set(settings.get("layer_types") or ()) - {"full_attention"}
  if kinds:
    raise UserError(f"{path}: layer type {min(kinds)!r} is not supported.")
  try:
    heads, embed = settings["num_attention_heads"], settings["hidden_size"]
    return checkpoint.make_decoder(
      path,
      layers=settings["num_hidden_layers"],
      embed=embed,
      mlp=settings["intermediate_size"],
      heads=heads,
      kv_heads=settings.get("num_key_value_heads") or heads,
      head_dim=settings.get("head_dim") or embed // heads,
      vocab=settings["vocab_size"],
      rope_theta=_rope_theta(path, settings),
      norm_eps=float(settings["rms_norm_eps"]),
      tied=settings.get("tie_word_embeddings", False),
      qk_norm=_ARCHITECTURES[names[0]],
    )
  except KeyError as error:
    raise UserError(f"{path} has no field {error.args[0]!r}.") from None


def _rope_theta(path: pathlib.Path, settings: dict[str, Any]) -> float:
  """The rotary base; any scaling of positions is refused by its name."""
  # transformers 5 writes rope_parameters, older releases rope_scaling.
  for name in ("rope_scaling", "rope_parameters"):
    rope = settings.get(name) or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
      raise UserError(f"{path}: {name} of type {kind!r} is not supported.")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
      raise UserError(f"{path}: partial_rotary_factor is not supported.")
  rope = settings.get("rope_parameters") or {}
  return float(settings.get("rope_theta", rope.get("rope_theta", 10_000.0)))
