"""Which passages of a corpus are nearest to a question: BM25, or dense.

A retriever gives the score of every passage; `top` chooses, ties by number.
"""

import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from grounded_jax import files, log
from grounded_jax.data import corpus as corpus_lib
from grounded_jax.records import Doc, UserError

RETRIEVERS = ("bm25", "dense")
_BATCH = 64  # texts that a dense model reads at once
_TALK = 100_000  # passages between two lines of progress


@runtime_checkable
class Retriever(Protocol):
  """Scores passages for questions."""

  least: float  # passages whose score is not above it are not found

  def scores(
    self, questions: Sequence[str]
  ) -> Iterator[Float32[np.ndarray, " D"]]:
    """Yields, for each question, the score of every passage."""
    ...


def make(kind: str, docs: Iterable[Doc], model: str) -> Retriever:
  """The retriever of a kind, with its index of the passages.

  Args:
    kind: one of RETRIEVERS.
    docs: the passages, in order.
    model: of a dense retriever: a directory, or a name of the hub.
  """
  if kind == "dense":
    return Dense(docs, model)
  if model:
    raise UserError("--dense_model is for --retriever=dense.")
  return BM25(docs)


def content(written: str) -> list[str]:
  """The words of a text but for English function words."""
  from bm25s.stopwords import STOPWORDS_EN

  return [w for w in corpus_lib.words(written) if w not in STOPWORDS_EN]


def top(
  scores: Float32[np.ndarray, " D"], count: int, least: float
) -> Int64[np.ndarray, " K"]:
  """The numbers of the `count` best passages, the best first."""
  count = min(count, len(scores))
  bound = np.partition(scores, len(scores) - count)[len(scores) - count]
  found = np.flatnonzero((scores >= bound) & (scores > least))
  return found[np.lexsort((found, -scores[found]))][:count]


class BM25:
  """Lucene's BM25 (k1 1.5, b 0.75) over title and text, by bm25s.

  In memory: 8 bytes for each different word of each passage, twice that while
  it is built.
  """

  least = 0.0

  def __init__(self, docs: Iterable[Doc]):
    import bm25s

    self._numbers, passages = {}, []
    number = lambda word: self._numbers.setdefault(word, len(self._numbers))
    for done, doc in enumerate(docs, start=1):
      said = content(f"{doc.title} {doc.text}")
      passages.append(array.array("i", map(number, said)))
      if done % _TALK == 0:
        log.say(f"indexed {done:,} passages")
    number("")  # the one word of a corpus without any
    self._index = bm25s.BM25()
    self._index.index((passages, dict(self._numbers)), show_progress=False)

  def scores(
    self, questions: Sequence[str]
  ) -> Iterator[Float32[np.ndarray, " D"]]:
    """Yields, for each question, the score of every passage."""
    for question in questions:
      asked = dict.fromkeys(content(question))
      known = [self._numbers[w] for w in asked if w in self._numbers]
      yield self._index.get_scores_from_ids(known)


class Dense:
  """Cosine of a sentence-transformers model's vectors.

  In memory: a vector of each passage, 4 bytes a number.
  """

  least = -np.inf

  def __init__(self, docs: Iterable[Doc], model: str):
    if not model:
      raise UserError(
        "--retriever=dense needs --dense_model: a directory, or a name of the"
        " Hugging Face hub such as sentence-transformers/all-MiniLM-L6-v2."
      )
    try:
      import sentence_transformers
    except ImportError:
      raise UserError(
        "--retriever=dense needs sentence-transformers: pip install"
        " 'grounded_jax[dense]'."
      ) from None
    path = files.find(model).path
    try:
      self._model = sentence_transformers.SentenceTransformer(str(path))
    except (OSError, ValueError) as error:
      raise UserError(
        f"--dense_model={model} cannot be read: {error}"
      ) from None
    self._vectors = self._encode([f"{d.title} {d.text}".strip() for d in docs])

  def _encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "D H"]:
    return self._model.encode(
      list(texts),
      batch_size=_BATCH,
      normalize_embeddings=True,
      show_progress_bar=False,
    ).astype(np.float32)

  def scores(
    self, questions: Sequence[str]
  ) -> Iterator[Float32[np.ndarray, " D"]]:
    """Yields, for each question, the score of every passage."""
    for vector in self._encode(questions):
      yield self._vectors @ vector
