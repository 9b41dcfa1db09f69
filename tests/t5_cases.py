"""Small T5s: their shapes, random parameters, texts and tokenizer."""

import dataclasses
import io
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece

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
    scale = {"embed": 1.0, "head": 0.5}.get(name, 0.2)
    scale = 1.0 if name.endswith("bias") else scale
    return (scale * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

  return graphdef, jax.tree.map_with_path(draw, params)


def tensors(shape: t5.Shape, params) -> dict[str, np.ndarray]:
  """The parameters by their Hugging Face names."""
  rows, sizes = t5_directory.rows(shape), t5_directory.sizes(shape)
  return table.stored_tree(rows, sizes, params)


def texts(shape: t5.Shape, lengths=(7, 3, 12), width: int = 12):
  """(tokens [B S], length [B]); what follows a text is random too."""
  rng = np.random.default_rng(1)
  tokens = rng.integers(0, shape.vocab, (len(lengths), width))
  return jnp.array(tokens, jnp.int32), jnp.array(lengths, jnp.int32)


WORDS = (
  "the a cat sat on mat in Paris France river city runs through tower was"
  " built by red blue green 1889 premise: hypothesis: Title:"
).split()


def write_spiece(path: pathlib.Path) -> pathlib.Path:
  """A small SentencePiece model, laid out as T5's: pad 0, </s> 1, unk 2."""
  rng = np.random.default_rng(0)
  lines = [" ".join(rng.choice(WORDS, 12)) for _ in range(300)]
  stream = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines + ["1", "0"] * 200),
    model_writer=stream,
    vocab_size=90,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  (path / "spiece.model").write_bytes(stream.getvalue())
  return path


def pairs(count: int, longest: int = 60) -> tuple[list[str], list[str]]:
  """Premises and hypotheses of random words and many lengths."""
  rng = np.random.default_rng(3)
  sized = lambda most: " ".join(rng.choice(WORDS, rng.integers(1, most + 1)))
  return (
    [sized(longest) for _ in range(count)],
    [sized(1 + longest // 4) for _ in range(count)],
  )


def answering(
  shape: t5.Shape, pieces: Sequence[int], ends: bool, seed: int = 0
):
  """Random parameters whose first token is one of `pieces`.

  Args:
    shape: of the model.
    pieces: ids that alone have large logits at the first step.
    ends: whether </s> follows each of them.
    seed: of the parameters.
  """
  _, params = parameters(shape, seed)
  rng = np.random.default_rng(seed)
  d = shape.embed
  end = rng.standard_normal(d).astype(np.float32)
  end /= np.linalg.norm(end)
  head = 0.01 * rng.standard_normal((d, shape.vocab)).astype(np.float32)
  for piece in pieces:
    column = rng.standard_normal(d).astype(np.float32)
    head[:, piece] = 2 * (column - (column @ end) * end)
    if ends:  # once said, the piece drowns all else in the decoder's stream
      params["embed"][piece] = 1000 * end
  params["decoder"]["norm"] = np.ones(d, np.float32)
  if ends:
    head[:, 1] = end
  return params | {"head": head}
