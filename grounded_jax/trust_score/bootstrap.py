"""95% percentile intervals by resampling questions, and paired differences.

Questions are drawn with replacement within each task, so that a macro mean
over tasks keeps its strata; a question brings all of its records (with other
passages, or once more without the evidence), which are no independent draws.
Two systems are compared on the same draws.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from grounded_jax.trust_score import summary
from grounded_jax.trust_score.table import Formula, Tables, aligned, collect

Rows = Iterable[Mapping[str, Any]]
# Sums of the columns over R resamples, by task.
Sums = dict[str, Float[np.ndarray, "R K"]]
Span = tuple[float, float]


def intervals(rows: Rows, *, n: int = 1000, seed: int = 0) -> dict[str, Span]:
  """(low, high) of every metric: the middle 95% of `n` resamples.

  Without resamples both are NaN.
  With rows of several tasks the metric is the macro mean over the tasks.
  """
  return spans(resample(collect(rows), n=n, seed=seed))


def difference(
  rows: Rows, against: Rows, *, n: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
  """(difference, low, high) of every metric of `rows` minus `against`.

  Without resamples low and high are NaN.

  Raises:
    UserError: the two are not outputs for the same questions.
  """
  ours = collect(rows)
  return Pair(ours, collect(against), n=n, seed=seed).difference()


class Pair:
  """Two systems' records of the same questions, resampled together."""

  def __init__(self, ours: Tables, theirs: Tables, *, n: int, seed: int = 0):
    theirs = aligned(ours, theirs)
    self._totals = [totals(tables) for tables in (ours, theirs)]
    self._draws = [resample(x, n=n, seed=seed) for x in (ours, theirs)]

  def difference(
    self, formula: Formula = summary.metrics
  ) -> dict[str, tuple[float, float, float]]:
    """(difference, low, high) of each of a formula's values."""
    now, then = (macro(sums, formula) for sums in self._totals)
    first, second = (macro(sums, formula) for sums in self._draws)
    return {
      name: (
        float(now[name][0] - then[name][0]),
        *_middle(first[name] - second[name]),
      )
      for name in now
    }


def resample(tables: Tables, *, n: int, seed: int = 0) -> Sums:
  """The sums of `n` resamples of the questions.

  A resample is a count of each question, so its sums are one product with the
  questions' sums: memory stays at one count per question.
  """
  rng = np.random.default_rng(seed)
  sums = {}
  for task, table in tables.items():
    cluster = table.clusters()
    size = int(cluster.max()) + 1
    whole = np.zeros((size, table.sums.shape[1]))
    np.add.at(whole, cluster, table.sums)
    sums[task] = np.empty((n, table.sums.shape[1]))
    for i in range(n):
      draws = rng.integers(size, size=size)
      sums[task][i] = np.bincount(draws, minlength=size) @ whole
  return sums


def totals(tables: Tables) -> Sums:
  """The sums of the records as they are."""
  return {task: t.sums.sum(0, keepdims=True) for task, t in tables.items()}


def macro(
  sums: Sums, formula: Formula = summary.metrics
) -> dict[str, Float[np.ndarray, " R"]]:
  """A formula's values, averaged over the tasks."""
  values = [formula(x) for x in sums.values()]
  return {
    name: np.mean([value[name] for value in values], axis=0)
    for name in values[0]
  }


def spans(sums: Sums, formula: Formula = summary.metrics) -> dict[str, Span]:
  """The middle 95% of each of a formula's values."""
  return {name: _middle(x) for name, x in macro(sums, formula).items()}


def _middle(samples: Float[np.ndarray, " R"]) -> Span:
  if not samples.size:
    return float("nan"), float("nan")
  low, high = np.percentile(samples, (2.5, 97.5))
  return float(low), float(high)
