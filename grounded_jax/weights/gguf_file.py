"""GGUF files, dequantised: the architectures that llama.cpp names alike.

Its converter interleaves the two halves of each rotary head of Llama's q and
k (Mistral's too, which it calls llama) and adds 1 to Gemma's norm scales; both
are undone here.  What llama.cpp knows of an architecture without reading it
(Gemma's pattern of layers and local rotary base) is stated here.
"""

import functools
import math
import pathlib
from typing import Any

import gguf
import numpy as np
from jaxtyping import Float

from grounded_jax import config
from grounded_jax.records import UserError
from grounded_jax.weights import checkpoint, table

_GEMMA = {
  "activation": "gelu",
  "post_norms": True,
  "plus_one": True,
  "scaled_embed": True,
}
# What all models of an architecture have.
_ARCHITECTURES = {
  "llama": {},
  "qwen2": {"qkv_bias": True},
  "qwen3": {"qk_norm": True},
  "gemma2": _GEMMA | {"pattern": "LG"},
  "gemma3": _GEMMA
  | {"pattern": "LLLLLG", "qk_norm": True, "local_rope_theta": 10_000.0},
}
# The 27B models, by their depth: scores over embed / heads, not head_dim.
_SHARED_SCALAR = {"gemma2": 46, "gemma3": 62}
_PART = 2**22  # weights dequantised at once
_FACTORS = "rope_freqs.weight"
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
  names = {
    row.gguf.format(i): row.hf.format(i)
    for row in table.rows(decoder)
    for i in table.layers(row, decoder)
  }
  shapes = {
    names.get(name, name): tuple(int(n) for n in tensor.shape[::-1])
    for name, tensor in tensors.items()
  }
  checkpoint.check(path, decoder, shapes, lambda name: name == _FACTORS)
  by_hf = {hf: tensors[name] for name, hf in names.items()}
  return checkpoint.Checkpoint(
    path=path,
    decoder=decoder,
    tensor=functools.partial(
      _tensor, by_hf, decoder, _architecture(path, reader)
    ),
  )


def _tensor(
  tensors: dict[str, Any],
  decoder: config.Decoder,
  architecture: str,
  name: str,
  index: table.Index,
) -> Float[np.ndarray, "..."]:
  value = _dequantized(tensors[name], index)
  if architecture == "llama" and name.endswith(
    ("q_proj.weight", "k_proj.weight")
  ):
    return _halves(value, decoder.head_dim)
  if architecture.startswith("gemma") and name.endswith("norm.weight"):
    return value - 1
  return value


def _dequantized(stored: Any, index: table.Index) -> Float[np.ndarray, "..."]:
  """A part of a tensor, some of its rows at a time."""
  shape = [int(n) for n in stored.shape[::-1]]
  rows, *columns = (
    range(*part.indices(n)) for part, n in zip(index, shape, strict=True)
  )
  cut = tuple(slice(c.start, c.stop) for c in columns)
  out = np.empty([len(rows), *map(len, columns)], np.float32)
  step = max(_PART // math.prod(shape[1:]), 1)
  for row in range(0, len(rows), step):
    count = min(step, len(rows) - row)
    first = rows.start + row
    data = stored.data[first : first + count]
    value = gguf.dequantize(data, stored.tensor_type)
    out[row : row + count] = value.reshape(count, *shape[1:])[
      (slice(None), *cut)
    ]
  return out


def _halves(
  value: Float[np.ndarray, "NH D"], head_dim: int
) -> Float[np.ndarray, "NH D"]:
  """Rows (pair, half) of each head reordered to (half, pair)."""
  rows, inputs = value.shape
  pairs = value.reshape(rows // head_dim, head_dim // 2, 2, inputs)
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
  _refuse(path, get, has, kind)
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
  theta = float(get("rope.freq_base")) if has("rope.freq_base") else 1e4
  fields = {
    "layers": int(get("block_count")),
    "embed": embed,
    "mlp": int(get("feed_forward_length")),
    "heads": heads,
    "kv_heads": int(get("attention.head_count_kv")) if grouped else heads,
    "head_dim": head_dim,
    "vocab": int(tensors["token_embd.weight"].shape[1]),
    "rope_theta": theta,
    "norm_eps": float(get("attention.layer_norm_rms_epsilon")),
    "tied": "output.weight" not in tensors,
  }
  fields |= _ARCHITECTURES[kind] | _scaling(path, get, has)
  if _FACTORS in tensors:
    fields |= _llama3(path, tensors[_FACTORS], fields, get, has)
  if kind.startswith("gemma"):
    fields |= _gemma(kind, fields, get, has)
  return checkpoint.make_decoder(path, **fields)


def _gemma(kind: str, fields: dict[str, Any], get: Any, has: Any) -> dict:
  out = {"window": int(get("attention.sliding_window"))}
  if _SHARED_SCALAR[kind] == fields["layers"]:
    out["query_scalar"] = fields["embed"] / fields["heads"]
  for name, ours in (
    ("attn_logit_softcapping", "attn_softcap"),
    ("final_logit_softcapping", "final_softcap"),
  ):
    if has(name):
      out[ours] = float(get(name))
  if has("rope.freq_base_swa"):
    out["local_rope_theta"] = float(get("rope.freq_base_swa"))
  if has("attention.sliding_window_pattern"):
    pattern = get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
      out["pattern"] = "".join("L" if local else "G" for local in pattern)
    else:
      out["pattern"] = "L" * (int(pattern) - 1) + "G"
  return out


def _scaling(path: pathlib.Path, get: Any, has: Any) -> dict[str, Any]:
  kind = get("rope.scaling.type") if has("rope.scaling.type") else "none"
  if kind == "none":
    return {}
  if kind != "linear":
    raise UserError(
      f"{path} scales its rotary positions ({kind}): not supported."
    )
  factor = float(get("rope.scaling.factor"))
  return {"rope_scaling": "linear", "rope_factor": factor}


def _llama3(
  path: pathlib.Path, stored: Any, fields: dict, get: Any, has: Any
) -> dict[str, Any]:
  """Llama 3's scaling, of which the file holds the outcome alone.

  What each frequency is divided by follows from a factor, which is its
  maximum, and three numbers that all of these models share.
  """
  got = gguf.dequantize(stored.data, stored.tensor_type).ravel()
  length = "rope.scaling.original_context_length"
  original = int(get(length)) if has(length) else 8192
  out = {
    "rope_scaling": "llama3",
    "rope_factor": float(got.max()),
    "rope_low": 1.0,
    "rope_high": 4.0,
    "rope_original": original,
  }
  half = fields["head_dim"] // 2
  speed = fields["rope_theta"] ** -(np.arange(half) / half)
  turns = original * speed / (2 * np.pi)
  fast = np.clip((turns - 1.0) / 3.0, 0, 1)
  want = 1 / ((1 - fast) / out["rope_factor"] + fast)
  if got.shape != want.shape or not np.allclose(got, want, rtol=1e-4):
    raise UserError(
      f"{path}: {_FACTORS} is not the scaling of Llama 3, the only one that is"
      " supported in this form."
    )
  return out if out["rope_factor"] > 1 else {}


def _refuse(path: pathlib.Path, get: Any, has: Any, kind: str) -> None:
  """Raises UserError for what the decoder would silently leave out."""
  names = ["expert_count"]
  if not kind.startswith("gemma"):
    names.append("attention.sliding_window")
  for name in names:
    if has(name) and get(name):
      raise UserError(f"{path} sets {name}={get(name)}: not supported.")
