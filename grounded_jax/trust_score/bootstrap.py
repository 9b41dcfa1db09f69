"""95% percentile intervals by resampling records, and paired differences.

Records are drawn with replacement within each task, so that a macro mean over
tasks keeps its strata; two systems are compared on the same draws.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from grounded_jax.records import UserError
from grounded_jax.trust_score import summary

Rows = Iterable[Mapping[str, Any]]


def intervals(
  rows: Rows, *, n: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
  """(low, high) of every metric: the middle 95% of `n` resamples.

  Without resamples both are NaN.
  With rows of several tasks the metric is the macro mean over the tasks.
  """
  return _middle(next(_resampled([summary.columns(rows)], n, seed)))


def difference(
  rows: Sequence[Mapping[str, Any]],
  against: Sequence[Mapping[str, Any]],
  *,
  n: int = 1000,
  seed: int = 0,
) -> dict[str, tuple[float, float, float]]:
  """(difference, low, high) of every metric of `rows` minus `against`.

  Without resamples low and high are NaN.

  Raises:
    UserError: the two are not outputs for the same questions in one order.
  """
  keys = [
    [(row["task"], row["question"]) for row in x] for x in (rows, against)
  ]
  if keys[0] != keys[1]:
    raise UserError(
      f"The two outputs cannot be compared pair by pair: {len(keys[0])} and"
      f" {len(keys[1])} records do not hold the same questions in one order."
    )
  ours, theirs = (summary.columns(x) for x in (rows, against))
  first, second = _resampled([ours, theirs], n, seed)
  middle = _middle({name: first[name] - second[name] for name in first})
  now, then = _macro(_sums(ours)), _macro(_sums(theirs))
  return {
    name: (float(now[name][0] - then[name][0]), *middle[name])
    for name in middle
  }


def _resampled(
  systems: Sequence[dict[str, Float[np.ndarray, "N K"]]], n: int, seed: int
) -> Iterator[dict[str, Float[np.ndarray, " R"]]]:
  """Yields the metrics of `n` resamples, of each system under the same draws.

  A resample is a count of each record, so its sums are one product with the
  columns: memory stays at one count per record.
  """
  tasks = list(systems[0])
  for system in systems:
    rng = np.random.default_rng(seed)
    sums = {task: np.empty((n, system[task].shape[1])) for task in tasks}
    for task in tasks:
      size = len(system[task])
      for i in range(n):
        draws = rng.integers(size, size=size)
        sums[task][i] = np.bincount(draws, minlength=size) @ system[task]
    yield _macro(sums)


def _sums(
  columns: dict[str, Float[np.ndarray, "N K"]],
) -> dict[str, Float[np.ndarray, "1 K"]]:
  return {task: x.sum(0, keepdims=True) for task, x in columns.items()}


def _macro(
  sums: dict[str, Float[np.ndarray, "R K"]],
) -> dict[str, Float[np.ndarray, " R"]]:
  """Every metric, averaged over the tasks."""
  scores = [summary.metrics(x) for x in sums.values()]
  return {
    name: np.mean([score[name] for score in scores], axis=0)
    for name in summary.METRICS
  }


def _middle(
  samples: dict[str, Float[np.ndarray, " R"]],
) -> dict[str, tuple[float, float]]:
  ends = lambda values: np.percentile(values, (2.5, 97.5))
  return {
    name: tuple(map(float, ends(values) if values.size else (np.nan, np.nan)))
    for name, values in samples.items()
  }
