"""Small random models of every family, made and computed by transformers."""

import json
import pathlib
from typing import Any

import jax
import numpy as np

from grounded_jax import config, weights
from grounded_jax import model as model_lib
from grounded_jax.weights import table

VOCAB = 53
_SIZES = {
  "vocab_size": VOCAB,
  "hidden_size": 32,
  "intermediate_size": 48,
  "num_hidden_layers": 4,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 8,
  "max_position_embeddings": 128,
  "pad_token_id": 0,
  "bos_token_id": 1,
  "eos_token_id": 2,
}
_LLAMA3 = {
  "rope_type": "llama3",
  "rope_theta": 5000.0,
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 64,
}
# What stands in a config.json of each family besides the sizes.
FAMILIES = {
  "llama": {"tie_word_embeddings": False, "rope_parameters": _LLAMA3},
  "qwen2": {"tie_word_embeddings": False},
  "qwen3": {"tie_word_embeddings": False, "head_dim": 12},
  "mistral": {"tie_word_embeddings": False, "sliding_window": 4},
  "smollm2": {"model_type": "llama", "tie_word_embeddings": True},
  "smollm3": {"tie_word_embeddings": True},
  "gemma2": {
    "sliding_window": 4,
    "query_pre_attn_scalar": 13,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
  },
  "gemma3_text": {
    "sliding_window": 4,
    "sliding_window_pattern": 3,
    "query_pre_attn_scalar": 13,
    "rope_parameters": {
      "full_attention": {
        "rope_type": "linear",
        "factor": 4.0,
        "rope_theta": 500.0,
      },
      "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
    },
  },
}


def make(name: str, path: pathlib.Path, **changes: Any) -> pathlib.Path:
  """A random model of the family in `path`, as `save_pretrained` writes it."""
  import torch
  import transformers

  fields = {"model_type": name, **_SIZES, **FAMILIES[name], **changes}
  fields = json.loads(json.dumps(fields))  # transformers edits what it gets
  cfg = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
  torch.manual_seed(0)
  theirs = transformers.AutoModelForCausalLM.from_config(cfg)
  around = 0.0 if name.startswith("gemma") else 1.0
  with torch.no_grad():
    for key, value in theirs.named_parameters():
      if "norm" in key:
        value.normal_(around, 0.3)
      else:
        value.normal_(0.0, 0.3 if "bias" in key else 32**-0.5)
  theirs.save_pretrained(path)
  return path


def edit(path: pathlib.Path, changes: dict[str, Any]) -> None:
  """Changes a config.json; a dot leads into a section, None removes."""
  file = path / "config.json"
  fields = json.loads(file.read_text())
  for name, value in changes.items():
    *sections, last = name.split(".")
    section = fields
    for key in sections:
      section = section[key]
    if value is None:
      section.pop(last, None)
    else:
      section[last] = None if value == "null" else value
  file.write_text(json.dumps(fields))


def theirs(path: pathlib.Path) -> Any:
  """The model in `path`, by transformers, in float32."""
  import torch
  import transformers

  return transformers.AutoModelForCausalLM.from_pretrained(
    path, dtype=torch.float32, attn_implementation="eager"
  ).eval()


def their_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
  import torch

  with torch.no_grad():
    return model(torch.tensor(np.array(tokens))).logits.numpy()


def their_gradients(reference: Any, decoder: config.Decoder, loss: Any):
  """The gradient of a loss by torch, as a tree of our leaves."""
  reference.zero_grad()
  loss.backward()
  grads = {n: p.grad.numpy() for n, p in reference.named_parameters()}
  out, sizes = {"blocks": {}}, table.sizes(decoder)
  for row in table.rows(decoder):
    node = out["blocks"] if row.stacked else out
    node[row.path[-1]] = table.leaf(
      row, sizes, grads.__getitem__, np.dtype("float32")
    )
  return out


def ours(path: pathlib.Path) -> tuple[config.Decoder, Any, Any]:
  """(decoder, graphdef, params) of the model in `path`, by our own loader."""
  cfg = config.Model(path=str(path))
  decoder = weights.decoder(cfg)
  graphdef, shapes = model_lib.abstract(decoder)
  return decoder, graphdef, weights.load(cfg, shapes)


def our_logits(graphdef: Any, params: Any, tokens: Any, length: Any) -> Any:
  """[P L V]: of prompts, one operation at a time.

  No two tests have the same decoder: they would compile for longer.
  """
  with jax.disable_jit():
    hidden, _ = model_lib.prefill(graphdef, params, tokens, length)
    return model_lib.logits(graphdef, params, hidden)
