"""A model or an adapter as a directory that `transformers` and vLLM load.

A model that was read from a Hugging Face directory keeps its config.json and
its tokenizer's files; one that was not has them made.  Weights leave the
devices tensor by tensor, adapters added to them on the way.  A directory is
written under another name and renamed when it is whole.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from grounded_jax import config, files, lora, tokenizer_files
from grounded_jax import tokenizer as tokenizer_lib
from grounded_jax.records import UserError
from grounded_jax.weights import hf_settings, shards, table

SHARD_BYTES = 5_000_000_000
# Says that a directory is an export, and of what.
MARKER = "grounded_jax.json"
_DTYPE_NAMES = ("dtype", "torch_dtype")  # transformers 5, and before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """What is exported, and to where."""

  model: config.Model
  decoder: config.Decoder
  tokenizer: tokenizer_lib.Tokenizer
  path: pathlib.Path
  adapter: bool = False  # the adapter alone, not the model
  dtype: str = ""  # "" = that of the model's files, or else param_dtype
  positions: int = 2048  # context to state where no file states one
  origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def check(job: Job) -> None:
  """Raises UserError if the directory may not be written, or holds nothing."""
  path = job.path
  if job.adapter and not job.model.lora.rank:
    raise UserError(
      "--adapter needs an experiment that trains one (model.lora.rank)."
    )
  if path.exists() and not path.is_dir():
    raise UserError(f"--output={path} is a file: name a directory.")
  if path.is_dir() and any(path.iterdir()) and not (path / MARKER).is_file():
    raise UserError(
      f"--output={path} holds files that are no export: name a new directory."
    )
  source = _found(job.model)
  if source and source.path.resolve() == path.resolve():
    raise UserError(
      f"--output={path} is the model's own directory: name another."
    )


def write(job: Job, params: Any, shard_bytes: int = SHARD_BYTES) -> None:
  """Writes the directory.

  Args:
    job: what and where.
    params: all that the model reads, adapters among them or not; with
      `job.adapter` the adapter's own tree.
    shard_bytes: of one file of weights, at most.
  """
  check(job)
  with _directory(job) as folder:
    fill = _fill_adapter if job.adapter else _fill_model
    fill(job, folder, params, shard_bytes)
    tokenizer_files.save(job.model, folder)


def _fill_model(
  job: Job, folder: pathlib.Path, params: Any, shard_bytes: int
) -> None:
  settings = _settings(job)
  dtype = jnp.dtype(next(settings[n] for n in _DTYPE_NAMES if n in settings))
  _write_json(folder / "config.json", settings)
  _write_json(folder / "generation_config.json", _generation(job))
  shards.write(folder, _tensors(job.decoder, params), dtype, shard_bytes)


def _fill_adapter(
  job: Job, folder: pathlib.Path, trained: Any, shard_bytes: int
) -> None:
  """The adapter in the names of PEFT, whose adapters are one file each."""
  del shard_bytes
  rows = {r.path[1]: r for r in table.rows(job.decoder) if r.stacked}
  modules = {name: rows[name].hf.removesuffix(".weight") for name in trained}
  tensors = [
    _side(f"base_model.model.{module.format(i)}", side, trained[name][side], i)
    for i in range(job.decoder.layers)
    for name, module in modules.items()
    for side in ("a", "b")
  ]
  dtype = jnp.dtype(job.dtype or next(iter(trained.values()))["a"].dtype)
  shards.write_file(folder / "adapter_model.safetensors", tensors, dtype)
  targets = [module.rpartition(".")[2] for module in modules.values()]
  _write_json(folder / "adapter_config.json", _peft(job.model, targets))


def _peft(cfg: config.Model, targets: list[str]) -> dict[str, Any]:
  return {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": cfg.path,
    "r": cfg.lora.rank,
    "lora_alpha": cfg.lora.alpha,
    "lora_dropout": 0.0,
    "target_modules": targets,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
  }


def _side(module: str, side: str, leaf: Any, layer: int) -> shards.Tensor:
  """lora_A as [R inputs], lora_B as [outputs R]."""
  rank = leaf.shape[-1] if side == "a" else leaf.shape[1]
  wide = int(np.prod(leaf.shape[1:])) // rank

  def value():
    one = np.asarray(jax.device_get(_layer(leaf, layer)))
    # Folded, A is [inputs R] and B [R outputs]: both are stored transposed.
    folded = one.reshape((wide, rank) if side == "a" else (rank, wide))
    return folded.T

  return shards.Tensor(
    name=f"{module}.lora_{side.upper()}.weight",
    shape=(rank, wide) if side == "a" else (wide, rank),
    value=value,
  )


def _tensors(decoder: config.Decoder, params: Any) -> list[shards.Tensor]:
  """The tensors in the order of layers, each made when it is asked for."""
  rows, sizes = table.rows(decoder), table.sizes(decoder)
  ordered = [(row, 0) for row in rows if not row.stacked]
  for i in range(decoder.layers):
    ordered += [(row, i) for row in rows if row.stacked]
  return [
    shards.Tensor(
      name=row.hf.format(i),
      shape=table.stored_shape(row, sizes),
      value=functools.partial(_stored, row, sizes, params, i),
    )
    for row, i in ordered
  ]


def _stored(
  row: table.Row, sizes: table.Sizes, params: Any, layer: int
) -> Float[np.ndarray, "..."]:
  """One tensor as files hold it."""
  leaf = functools.reduce(dict.__getitem__, row.path, params)
  if not row.stacked:
    leaf = np.asarray(jax.device_get(leaf))
    return table.tensors(row, sizes, leaf)[row.hf]
  one = np.asarray(jax.device_get(_layer(leaf, layer)))
  single = {**sizes, row.depth: 1}
  return table.tensors(row, single, one[None])[row.hf.format(0)]


@jax.jit
def _layer(leaf: Any, layer: Int[Array, ""]) -> Array:
  """One layer of a stacked leaf, its adapter added."""
  if isinstance(leaf, lora.Adapted):
    return lora.effective(leaf.layer(layer))
  return leaf[layer]


def _found(cfg: config.Model) -> files.Found | None:
  return files.find(cfg.path) if cfg.path else None


def _settings(job: Job) -> dict[str, Any]:
  """config.json: the source's own where there is one, else made."""
  found = _found(job.model)
  if found and found.kind == "hf":
    settings = json.loads((found.path / "config.json").read_text("utf-8"))
    names = [n for n in _DTYPE_NAMES if n in settings] or ["torch_dtype"]
    stated = settings.get(names[0]) or job.model.param_dtype
    return settings | dict.fromkeys(names, job.dtype or stated)
  tokenizer = job.tokenizer
  ends = list(tokenizer.eos)
  return hf_settings.settings(
    job.decoder, job.dtype or job.model.param_dtype
  ) | {
    "max_position_embeddings": _context(found) or job.positions,
    "bos_token_id": tokenizer.bos,
    "eos_token_id": ends if len(ends) > 1 else ends[0],
    "pad_token_id": tokenizer.pad,
  }


def _context(found: files.Found | None) -> int:
  """The context that a GGUF file states; 0 where there is none."""
  if found is None:
    return 0
  fields = gguf.GGUFReader(found.path).fields
  name = f"{fields['general.architecture'].contents()}.context_length"
  return int(fields[name].contents()) if name in fields else 0


def _generation(job: Job) -> dict[str, Any]:
  """generation_config.json: the source's own, but with every end we know."""
  tokenizer = job.tokenizer
  ends = list(tokenizer.eos)
  source = tokenizer_files.directory(job.model)
  settings = {"bos_token_id": tokenizer.bos, "pad_token_id": tokenizer.pad}
  if source and (source / "generation_config.json").is_file():
    path = source / "generation_config.json"
    settings = json.loads(path.read_text("utf-8"))
  stated = settings.get("eos_token_id")
  known = stated if isinstance(stated, list) else [stated]
  if set(known) != set(ends):
    settings["eos_token_id"] = ends if len(ends) > 1 else ends[0]
  return {k: v for k, v in settings.items() if v is not None}


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


@contextlib.contextmanager
def _directory(job: Job) -> Iterator[pathlib.Path]:
  """A folder that takes the name of the export when it is whole."""
  path = job.path.resolve()
  part = path.with_name(f".{path.name}.part")
  old = path.with_name(f".{path.name}.old")
  for left in (part, old):
    shutil.rmtree(left, ignore_errors=True)
  part.mkdir(parents=True)
  try:
    yield part
  except BaseException:
    shutil.rmtree(part)
    raise
  _write_json(part / MARKER, job.origin)
  if path.exists():
    path.rename(old)
  part.rename(path)
  shutil.rmtree(old, ignore_errors=True)
