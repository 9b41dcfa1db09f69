"""Small T5s: their shapes, random parameters, and their files."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from grounded_jax import t5
from grounded_jax.weights import t5_directory, table

GATED = t5.Shape(
  embed=24, mlp=40, heads=4, head_dim=10, layers=3, decoder_layers=2, vocab=96
)
SHAPES = {
  "gated": GATED,  # heads * head_dim = 40, embed = 24
  "odd": dataclasses.replace(GATED, buckets=13, max_distance=29, layers=2),
  "tied": dataclasses.replace(GATED, tied=True, scaled=True, gated=False),
  "unscaled": dataclasses.replace(GATED, tied=True, norm_eps=1e-5),
  "start": dataclasses.replace(GATED, heads=2, head_dim=16, start=5, vocab=131),
}


def parameters(shape: t5.Shape, seed: int = 0, dtype: str = "float32"):
  """(graphdef, params): every leaf random, norms and biases included."""
  graphdef, params, _ = t5.abstract(shape, dtype)
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    if name.endswith("norm"):
      return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
    scale = {"embed": 1.0, "head": 1.0}.get(name, 0.2)
    scale = 1.0 if name.endswith("bias") else scale
    return (scale * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

  return graphdef, jax.tree.map_with_path(draw, params)


def settings(shape: t5.Shape) -> dict:
  """What config.json says of a shape."""
  return {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "d_model": shape.embed,
    "d_ff": shape.mlp,
    "d_kv": shape.head_dim,
    "num_heads": shape.heads,
    "num_layers": shape.layers,
    "num_decoder_layers": shape.decoder_layers,
    "vocab_size": shape.vocab,
    "relative_attention_num_buckets": shape.buckets,
    "relative_attention_max_distance": shape.max_distance,
    "layer_norm_epsilon": shape.norm_eps,
    "feed_forward_proj": "gated-gelu" if shape.gated else "relu",
    "tie_word_embeddings": shape.tied,
    "scale_decoder_outputs": shape.scaled,
    "decoder_start_token_id": shape.start,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "is_encoder_decoder": True,
    "dropout_rate": 0.1,
  }


def tensors(shape: t5.Shape, params) -> dict[str, np.ndarray]:
  """The parameters by their Hugging Face names."""
  out = {}
  for row in t5_directory.rows(shape):
    leaf = np.asarray(functools.reduce(dict.__getitem__, row.path, params))
    out |= table.tensors(row, t5_directory.sizes(shape), leaf)
  return out


def save(path: pathlib.Path, shape: t5.Shape, params) -> pathlib.Path:
  """Writes config.json and model.safetensors; returns the directory."""
  path.mkdir(parents=True, exist_ok=True)
  safetensors.numpy.save_file(
    tensors(shape, params), path / "model.safetensors"
  )
  (path / "config.json").write_text(json.dumps(settings(shape)))
  return path


def texts(shape: t5.Shape, lengths=(7, 3, 12), width: int = 12):
  """(tokens [B S], length [B]); what follows a text is random too."""
  rng = np.random.default_rng(1)
  tokens = rng.integers(0, shape.vocab, (len(lengths), width))
  return jnp.array(tokens, jnp.int32), jnp.array(lengths, jnp.int32)
