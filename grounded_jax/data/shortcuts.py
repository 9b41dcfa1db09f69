"""Cues that must not tell whether a record is answerable, and how to cut them.

A cue is a number that can be had without understanding: how well the best
passage covers the question's words, what the retriever says, how many names or
words there are, how alike the passages are.  Its AUC is the chance that it is
higher for an answerable record than for an unanswerable one; 0.5 says nothing.
"""

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float, Float16, Float32, Int

from grounded_jax.data import corpus
from grounded_jax.records import Doc

# Of a passage; cues of a set are made of them.
FEATURES = ("overlap", "title", "score", "entities", "words")
CUES = (
  "best overlap",
  "mean overlap",
  "best title",
  "best score",
  "mean score",
  "entities",
  "words",
  "mean likeness",
  "best likeness",
)
WARN = 0.6  # an AUC above it is worth a warning, and so is one below 0.4
FAR = 0.02  # how far from 0.5 `match` lets an AUC go, about
_FOLDS = 5
_NEWTON = 15  # steps, from 0

_NAME = re.compile(r"(?:\b[A-Z][\w'’-]*(?: (?=[A-Z]))?)+|\b\d[\d.,]*")


def features(
  asked: Sequence[str],
  docs: Sequence[Doc],
  said: Sequence[Sequence[str]],
  scores: Float32[np.ndarray, " N"],
) -> Float32[np.ndarray, "N F"]:
  """FEATURES of passages.

  Args:
    asked: the question's words that count.
    docs: the passages.
    said: the words of each.
    scores: of the retriever.
  """
  wanted = set(asked)
  rows = [
    (
      len(wanted & set(found)) / max(len(wanted), 1),
      _share(corpus.words(doc.title), wanted),
      score,
      entities(doc),
      len(doc.text.split()),
    )
    for doc, found, score in zip(docs, said, scores, strict=True)
  ]
  return np.array(rows, np.float32).reshape(len(rows), len(FEATURES))


def _share(words: Sequence[str], wanted: set[str]) -> float:
  return sum(word in wanted for word in words) / max(len(words), 1)


def entities(doc: Doc) -> int:
  """Different names (runs of capitalised words) and numbers of a passage."""
  found = _NAME.findall(f"{doc.title}. {doc.text}")
  return len({name.strip(" .,").lower() for name in found})


def cues(
  passages: Float32[np.ndarray, "N F"],
  likeness: Float16[np.ndarray, "N N"],
  sets: Int[np.ndarray, "S K"],
) -> Float32[np.ndarray, "S C"]:
  """CUES of sets of passages.

  Args:
    passages: FEATURES of each.
    likeness: of each two of them, 0 to 1.
    sets: numbers of passages.
  """
  rows = passages[sets]  # [S, K, F]
  best, mean = rows.max(1), rows.mean(1)
  one, other = np.triu_indices(sets.shape[1], 1)
  alike = likeness[sets[:, one], sets[:, other]].astype(np.float32)
  if not len(one):  # sets of one passage
    alike = np.zeros((len(sets), 1), np.float32)
  named = dict(zip(FEATURES, zip(best.T, mean.T, strict=True), strict=True))
  return np.stack(
    [
      *named["overlap"],
      named["title"][0],
      *named["score"],
      named["entities"][1],
      named["words"][1],
      alike.mean(1),
      alike.max(1),
    ],
    axis=1,
  )


def auc(
  positive: Float[np.ndarray, " P"], negative: Float[np.ndarray, " N"]
) -> float:
  """The chance that a positive is above a negative; a tie counts half."""
  if not len(positive) or not len(negative):
    return float("nan")
  return float(np.mean(_rank(np.sort(negative), positive)))


def _rank(
  ordered: Float[np.ndarray, " N"], values: Float[np.ndarray, " M"]
) -> Float[np.ndarray, " M"]:
  """The share of `ordered` below each value, ties by half."""
  low = np.searchsorted(ordered, values, "left")
  high = np.searchsorted(ordered, values, "right")
  return (low + high) / (2 * len(ordered))


def chance(pairs: int) -> float:
  """Two deviations of an AUC of so many pairs where a cue says nothing."""
  return 2 * ((2 * pairs + 1) / (12 * pairs**2)) ** 0.5


def together(
  answerable: Float32[np.ndarray, "P C"],
  unanswerable: Float32[np.ndarray, "P C"],
  question: Int[np.ndarray, " P"],
) -> float:
  """The AUC of a logistic regression on all cues, on questions not seen.

  Each fifth of the questions is told by the others; NaN for less than ten.

  Args:
    answerable: cues of records.
    unanswerable: of the records that stand beside them.
    question: of each pair, numbered from 0.
  """
  count = len(answerable)
  if len(set(question)) < 2 * _FOLDS:
    return float("nan")
  both = np.concatenate([answerable, unanswerable]).astype(np.float64)
  both = (both - both.mean(0)) / np.maximum(both.std(0), 1e-9)
  rows = np.concatenate([both, np.ones((2 * count, 1))], 1)
  label = np.repeat([1.0, 0.0], count)
  fold = np.tile(question % _FOLDS, 2)
  told = np.empty(2 * count)
  for own in range(_FOLDS):
    seen = fold != own
    told[~seen] = rows[~seen] @ _logistic(rows[seen], label[seen])
  # Scores of different folds do not compare.
  parts = [told[fold == own] for own in range(_FOLDS)]
  return float(np.mean([auc(*np.split(part, 2)) for part in parts]))


def _logistic(
  rows: Float[np.ndarray, "R C"], label: Float[np.ndarray, " R"]
) -> Float[np.ndarray, " C"]:
  """Weights by Newton's method, with a penalty of |w|^2 / 2."""
  weights = np.zeros(rows.shape[1])
  for _ in range(_NEWTON):
    chance = 1 / (1 + np.exp(-np.clip(rows @ weights, -30, 30)))
    slope = rows.T @ (label - chance) - weights
    bend = (rows * (chance * (1 - chance))[:, None]).T @ rows
    weights += np.linalg.solve(bend + np.eye(len(weights)), slope)
  return weights


def match(
  answerable: Float32[np.ndarray, "P C"],
  options: Callable[[], Iterable[Float32[np.ndarray, "_ C"]]],
) -> list[int | None]:
  """For each answerable record the option that keeps all AUCs near 0.5.

  With F the distribution of a cue over the answerable records, its AUC is 0.5
  minus the mean of d = F(unanswerable) - F(answerable).  Each choice, in turn,
  has the least |sum of d so far + d|^2: like its own record while the sum is
  small, and what makes up for others where it is not.  A record whose every
  option would carry a mean beyond `FAR` gets None.  All is done twice: what a
  regression on the first choice makes of the cues is then one more cue.

  Args:
    answerable: cues of the records.
    options: gives, for each record, the cues of the sets to choose from.
  """
  picked = _match(answerable, options())
  taken = [n is not None for n in picked]
  if sum(taken) < 2 * _FOLDS:
    return picked
  chosen = [
    rows[n] for rows, n in zip(options(), picked, strict=True) if n is not None
  ]
  both = np.concatenate([answerable[taken], chosen]).astype(np.float64)
  mean, scale = both.mean(0), np.maximum(both.std(0), 1e-9)
  label = np.repeat([1.0, 0.0], len(chosen))
  weights = _logistic((both - mean) / scale, label)
  more = lambda rows: np.concatenate(
    [rows, ((rows - mean) / scale @ weights)[:, None]], axis=1
  )
  return _match(more(answerable), map(more, options()))


def _match(
  answerable: Float[np.ndarray, "P C"],
  options: Iterable[Float[np.ndarray, "_ C"]],
) -> list[int | None]:
  ordered, count = np.sort(answerable, axis=0), answerable.shape[1]
  total, taken = np.zeros(count), 0
  out = []
  for own, others in zip(answerable, options, strict=True):
    rows = np.concatenate([own[None], others])
    ranks = np.stack([_rank(ordered[:, c], rows[:, c]) for c in range(count)])
    sums = total + (ranks[:, 1:] - ranks[:, :1]).T
    cost = (sums**2).sum(1)
    cost[np.abs(sums).max(1) > FAR * (taken + 1) + 1] = np.inf
    best = int(np.argmin(cost))
    if cost[best] == np.inf:
      out.append(None)
      continue
    total, taken = sums[best], taken + 1
    out.append(best)
  return out
