"""T5 from a Hugging Face directory: config.json, weights, their table."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from grounded_jax import t5
from grounded_jax.records import UserError
from grounded_jax.weights import checkpoint, stored, table

_ARCHITECTURES = ("T5ForConditionalGeneration", "T5WithLMHeadModel")
_HEAD = "lm_head.weight"
# What is read: the name in config.json, the shape's field, its default.
_FIELDS = {
  "d_model": ("embed", 512),
  "d_ff": ("mlp", 2048),
  "d_kv": ("head_dim", 64),
  "num_heads": ("heads", 8),
  "num_layers": ("layers", 6),
  "vocab_size": ("vocab", 32128),
  "relative_attention_num_buckets": ("buckets", 32),
  "relative_attention_max_distance": ("max_distance", 128),
  "layer_norm_epsilon": ("norm_eps", 1e-6),
}
_ALSO_READ = (
  *("architectures", "num_decoder_layers", "feed_forward_proj"),
  *("tie_word_embeddings", "scale_decoder_outputs"),
  *("decoder_start_token_id", "pad_token_id"),
)
# What a field must be where it is stated.
_REQUIRED = {
  "model_type": ("t5",),
  "is_encoder_decoder": (True,),
  "is_decoder": (False,),
  "hidden_act": ("gelu_new", "relu"),
  "num_beams": (1,),
  "do_sample": (False,),
  "pruned_heads": ({},),
  "add_cross_attention": (False, True),  # the decoder always has it
}
# What changes nothing of a forward pass: training, bookkeeping, and texts
# that other tasks are given.
_WITHOUT_USE = (
  *("_name_or_path", "name_or_path", "transformers_version", "torch_dtype"),
  *("dtype", "dropout_rate", "classifier_dropout", "initializer_factor"),
  *("use_cache", "output_past", "n_positions", "task_specific_params"),
  *("eos_token_id", "bos_token_id", "gradient_checkpointing", "problem_type"),
  *("output_attentions", "output_hidden_states", "return_dict", "id2label"),
  *("label2id", "max_length", "use_return_dict", "torchscript"),
  *("chunk_size_feed_forward", "finetuning_task", "tokenizer_class"),
)
_GATED = {"gated-gelu": True, "relu": False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Checkpoint:
  """A T5 on disk, nothing read yet but names and shapes."""

  path: pathlib.Path
  shape: t5.Shape
  tensor: Callable[[str], table.Tensor]  # of a Hugging Face name


def read(path: pathlib.Path, bucket: epath.Path | None = None) -> T5Checkpoint:
  """The T5 in a directory with config.json and weights.

  Args:
    path: where config.json is.
    bucket: where the weights are read by byte ranges; None = `path`.

  Raises:
    UserError: files are missing or broken, or a model that `t5` cannot be; the
      sentence names the file or the field.
  """
  settings = path / "config.json"
  values = stored.json_of(settings)
  _refuse(settings, values)
  tensors = stored.tensors(path, bucket)
  shape = _shape(settings, values, _HEAD in tensors)
  checkpoint.check(
    path if bucket is None else bucket,
    rows(shape),
    sizes(shape),
    {name: tensor.shape for name, tensor in tensors.items()},
    _unused,
  )
  return T5Checkpoint(path=path, shape=shape, tensor=tensors.__getitem__)


def save(
  path: pathlib.Path,
  shape: t5.Shape,
  params: Mapping[str, Any],
  dtype: str = "",
) -> None:
  """Writes config.json and model.safetensors, as transformers reads them.

  Args:
    path: a directory, made if it does not exist.
    shape: of the model.
    params: the parameter tree.
    dtype: stored as, "" = as the parameters are.
  """
  tensors = table.stored_tree(rows(shape), sizes(shape), params, dtype)
  values = vars(shape)
  settings = {name: values[field] for name, (field, _) in _FIELDS.items()}
  stored.save(
    path,
    tensors,
    settings
    | {
      "architectures": [_ARCHITECTURES[0]],
      "model_type": "t5",
      "is_encoder_decoder": True,
      "num_decoder_layers": shape.decoder_layers,
      "feed_forward_proj": "gated-gelu" if shape.gated else "relu",
      "tie_word_embeddings": shape.tied,
      "scale_decoder_outputs": shape.scaled,
      "decoder_start_token_id": shape.start,
      "pad_token_id": 0,
      "eos_token_id": 1,
    },
  )


def _unused(name: str) -> bool:
  """Copies of the embedding, a tied head, a table that nothing reads."""
  return name in (
    *("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", _HEAD),
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
  )


def _refuse(path: pathlib.Path, values: Mapping[str, Any]) -> None:
  """Raises UserError for what would be computed otherwise, or is unknown."""
  names = values.get("architectures") or ["none stated"]
  if names[0] not in _ARCHITECTURES:
    raise UserError(
      f"{path} describes a model of the architecture {names[0]}; a T5 verifier"
      f" is a {_ARCHITECTURES[0]}."
    )
  known = {*_FIELDS, *_ALSO_READ, *_WITHOUT_USE, "dense_act_fn", "is_gated_act"}
  for name, value in values.items():
    if name in _REQUIRED and value not in _REQUIRED[name]:
      raise UserError(f"{path}: {name}={value!r} is not supported.")
    if name not in known and name not in _REQUIRED and value is not None:
      raise UserError(f"{path}: {name}={value!r} is a field that is not known.")
  kind = values.get("feed_forward_proj", "relu")
  if kind not in _GATED:
    raise UserError(f"{path}: feed_forward_proj={kind!r} is not supported.")
  derived = {
    "is_gated_act": _GATED[kind],
    "dense_act_fn": "gelu_new" if _GATED[kind] else "relu",
  }
  for name, wanted in derived.items():
    if values.get(name, wanted) != wanted:
      raise UserError(
        f"{path}: {name}={values[name]!r} is not supported with"
        f" feed_forward_proj={kind!r}."
      )


def _shape(
  path: pathlib.Path, values: Mapping[str, Any], has_head: bool
) -> t5.Shape:
  tied = values.get("tie_word_embeddings", True)
  scaled = values.get("scale_decoder_outputs", tied)
  if tied and not scaled:
    # As transformers 5 writes every v1.1: tied is what has no head stored.
    tied = not has_head
  pad = values.get("pad_token_id", 0)
  start = values.get("decoder_start_token_id", pad)
  sizes = {field: values.get(n, d) for n, (field, d) in _FIELDS.items()}
  try:
    return t5.Shape(
      **sizes,
      decoder_layers=values.get("num_decoder_layers") or sizes["layers"],
      gated=_GATED[values.get("feed_forward_proj", "relu")],
      tied=tied,
      scaled=scaled,
      start=pad if start is None else start,
    )
  except UserError as error:
    raise UserError(f"{path}: {error}") from None


def sizes(shape: t5.Shape) -> dict[str, int]:
  """The size of each axis of a T5's leaves; Z counts the decoder's layers."""
  return {
    "Y": shape.layers,
    "Z": shape.decoder_layers,
    "V": shape.vocab,
    "D": shape.embed,
    "F": shape.mlp,
    "N": shape.heads,
    "H": shape.head_dim,
    "B": shape.buckets,
  }


def rows(shape: t5.Shape) -> tuple[table.Row, ...]:
  """Which tensor is which leaf."""
  out = [_row("embed", "shared.weight", "V D", 0)]
  out += _stack(shape, "encoder", "Y", {"attention": "SelfAttention"})
  parts = {"attention": "SelfAttention", "cross": "EncDecAttention"}
  out += _stack(shape, "decoder", "Z", parts)
  return (*out, *(() if shape.tied else (_row("head", _HEAD, "D V", 1),)))


def _row(
  path: str, hf: str, axes: str, inputs: int, depth: str = "Y"
) -> table.Row:
  return table.Row(
    path=tuple(path.split(".")), hf=hf, axes=axes, inputs=inputs, depth=depth
  )


def _stack(
  shape: t5.Shape, stack: str, depth: str, parts: Mapping[str, str]
) -> list[table.Row]:
  """The rows of the encoder or of the decoder."""
  out = [
    _row(f"{stack}.norm", f"{stack}.final_layer_norm.weight", "D", 0),
    _row(
      f"{stack}.bias",
      f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
      "B N",
      0,
    ),
  ]
  mlp = {"gate": "wi_0", "up": "wi_1"} if shape.gated else {"up": "wi"}
  blocks = [
    *((part, hf, {n: n for n in "qkvo"}) for part, hf in parts.items()),
    ("mlp", "DenseReluDense", mlp | {"down": "wo"}),
  ]
  axes = {"o": ("N H D", 2), "down": ("F D", 1)}
  for place, (part, hf, names) in enumerate(blocks):
    layer = f"{stack}.block.{{}}.layer.{place}"
    norm = f"{layer}.layer_norm.weight"
    out.append(_row(f"{stack}.{part}.norm", norm, "D", 0, depth))
    usual = ("D F", 1) if part == "mlp" else ("D N H", 1)
    for ours, theirs in names.items():
      name = f"{layer}.{hf}.{theirs}.weight"
      path = f"{stack}.{part}.{ours}"
      out.append(_row(path, name, *axes.get(ours, usual), depth))
  return out
