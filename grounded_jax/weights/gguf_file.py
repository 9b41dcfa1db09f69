"""GGUF files, dequantised: llama and qwen3 architectures.

The converter of llama.cpp interleaves the two halves of each rotary head of
Llama's q and k; that is undone here, so that rotate-half applies.
"""

import functools
import pathlib
from typing import Any

import gguf
import numpy as np
from jaxtyping import Float

from grounded_jax import config
from grounded_jax.records import UserError
from grounded_jax.weights import checkpoint, table

_ARCHITECTURES = ("llama", "qwen3")
_TYPES = gguf.GGMLQuantizationType
# Whole floats and the quantisations that llama.cpp writes by default.
_READABLE = (
  *(_TYPES.F32, _TYPES.F16, _TYPES.BF16),
  *(_TYPES.Q4_0, _TYPES.Q4_1, _TYPES.Q5_0, _TYPES.Q5_1, _TYPES.Q8_0),
  *(_TYPES.Q2_K, _TYPES.Q3_K, _TYPES.Q4_K, _TYPES.Q5_K, _TYPES.Q6_K),
)


def read(path: pathlib.Path) -> checkpoint.Checkpoint:
  """The model in a GGUF file.

  Raises:
    UserError: not a GGUF file, or a model that the decoder cannot be.
  """
  try:
    reader = gguf.GGUFReader(path)
  except ValueError as error:
    raise UserError(f"{path} is not a readable GGUF file: {error}.") from None
  tensors = {tensor.name: tensor for tensor in reader.tensors}
  decoder = _decoder(path, reader, tensors)
  for tensor in reader.tensors:
    if tensor.tensor_type not in _READABLE:
      raise UserError(
        f"{path}: the tensor {tensor.name} is stored as"
        f" {tensor.tensor_type.name}, which is not supported; convert the model"
        " to Q8_0 or F16."
      )
  rows, sizes = table.rows(decoder), table.sizes(decoder)
  names = {
    row.gguf.format(i): row.hf.format(i)
    for row in rows
    for i in table.layers(row, sizes)
  }
  shapes = {
    names.get(name, name): tuple(int(n) for n in tensor.shape[::-1])
    for name, tensor in tensors.items()
  }
  checkpoint.check(path, rows, sizes, shapes)
  by_hf = {hf: tensors[name] for name, hf in names.items()}
  permuted = _architecture(path, reader) == "llama"
  return checkpoint.Checkpoint(
    path=path,
    decoder=decoder,
    tensor=functools.partial(_tensor, by_hf, decoder, permuted),
  )


def _tensor(
  tensors: dict[str, Any], decoder: config.Decoder, permuted: bool, name: str
) -> Float[np.ndarray, "..."]:
  stored = tensors[name]
  value = gguf.dequantize(stored.data, stored.tensor_type)
  value = value.reshape(tuple(int(n) for n in stored.shape[::-1]))
  if permuted and name.endswith("q_proj.weight"):
    return _halves(value, decoder.heads)
  if permuted and name.endswith("k_proj.weight"):
    return _halves(value, decoder.kv_heads)
  return value


def _halves(
  value: Float[np.ndarray, "NH D"], heads: int
) -> Float[np.ndarray, "NH D"]:
  """Rows (pair, half) of each head reordered to (half, pair)."""
  rows, inputs = value.shape
  pairs = value.reshape(heads, rows // heads // 2, 2, inputs)
  return pairs.swapaxes(1, 2).reshape(rows, inputs)


def _field(path: pathlib.Path, reader: Any, name: str) -> Any:
  field = reader.get_field(name)
  if field is None:
    raise UserError(f"{path} has no field {name}: it is not a whole model.")
  return field.contents()


def _architecture(path: pathlib.Path, reader: Any) -> str:
  name = _field(path, reader, "general.architecture")
  if name not in _ARCHITECTURES:
    raise UserError(
      f"{path} holds a model of the architecture {name!r}; supported are"
      f" {', '.join(_ARCHITECTURES)}."
    )
  return name


def _decoder(
  path: pathlib.Path, reader: Any, tensors: dict[str, Any]
) -> config.Decoder:
  kind = _architecture(path, reader)
  get = lambda name: _field(path, reader, f"{kind}.{name}")
  has = lambda name: reader.get_field(f"{kind}.{name}") is not None
  _refuse(path, get, has, tensors)
  if "token_embd.weight" not in tensors:
    raise UserError(f"{path} lacks the tensor token_embd.weight.")
  heads = int(get("attention.head_count"))
  embed = int(get("embedding_length"))
  head_dim = embed // heads
  if has("attention.key_length"):
    head_dim = int(get("attention.key_length"))
  rotary = "rope.dimension_count"
  if has(rotary) and int(get(rotary)) != head_dim:
    raise UserError(
      f"{path} turns {get(rotary)} of {head_dim} dimensions of a head; partial"
      " rotary embeddings are not supported."
    )
  grouped = has("attention.head_count_kv")
  return checkpoint.make_decoder(
    path,
    layers=int(get("block_count")),
    embed=embed,
    mlp=int(get("feed_forward_length")),
    heads=heads,
    kv_heads=int(get("attention.head_count_kv")) if grouped else heads,
    head_dim=head_dim,
    vocab=int(tensors["token_embd.weight"].shape[1]),
    rope_theta=float(get("rope.freq_base")) if has("rope.freq_base") else 1e4,
    norm_eps=float(get("attention.layer_norm_rms_epsilon")),
    tied="output.weight" not in tensors,
    qk_norm=kind == "qwen3",
  )


def _refuse(path: pathlib.Path, get: Any, has: Any, tensors: Any) -> None:
  """Raises UserError for what the decoder would silently leave out."""
  scaling = get("rope.scaling.type") if has("rope.scaling.type") else "none"
  if scaling == "none" and "rope_freqs.weight" in tensors:
    scaling = "rope_freqs.weight"
  if scaling != "none":
    raise UserError(
      f"{path} scales its rotary positions ({scaling}): not supported."
    )
  for name in ("expert_count", "attention.sliding_window"):
    if has(name) and get(name):
      raise UserError(f"{path} sets {name}={get(name)}: not supported.")
