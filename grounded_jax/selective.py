"""Refusing what the policy is least sure of: risk against coverage.

Confidence is the mean log-probability that the policy gives the tokens of the
answer it wrote: the sampler has it already, and the mean (unlike the sum) does
not call a list less sure because it is longer.  Risk is 100 - AC over what is
answered, where answering an unanswerable question earns nothing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from grounded_jax import trust_score

_POINTS = 50  # of a stored curve, and thresholds tried

Rows = Sequence[Mapping[str, Any]]


def risk_coverage(
  confidence: Sequence[float],
  rows: Rows,
  ids: Sequence[str],
  *,
  bootstrap: int = 0,
) -> dict[str, Any]:
  """The risk-coverage curve of a policy's outputs, its area, a threshold.

  What the policy refused itself comes last, the least sure refusal first, as
  answers that earn nothing: the curve goes on to full coverage.

  Args:
    confidence: of each output, higher is surer.
    rows: `trust_score.per_record` of the outputs.
    ids: of the records; they decide which half a record falls into.
    bootstrap: resamples of the difference's 95% interval.

  Returns:
    `curve`: at most 50 [coverage, risk] in percent.  `aurc`: the mean risk
    over all coverages; `aurc_best` if right answers came first, `aurc_chance`
    in a random order.  `threshold`: see `threshold`; None for fewer than four
    records.
  """
  sure = np.asarray(confidence, float)
  refused = np.array([row["is_refusal"] for row in rows])
  credit = np.array([_credit(row) for row in rows])
  # Two keys: answers by confidence, then refusals by their own, rising.
  order = np.lexsort((np.where(refused, sure, -sure), refused))
  keys = list(zip(refused.tolist(), sure.tolist(), strict=True))
  risk = _risks(_tied([keys[i] for i in order], credit[order]))
  n = len(rows)
  points = np.unique(np.linspace(1, n, min(n, _POINTS)).round().astype(int))
  return {
    "aurc": float(risk.mean()),
    "aurc_best": float(_risks(-np.sort(-credit)).mean()),
    "aurc_chance": float(100 - credit.mean()),
    "curve": [[100 * int(k) / n, float(risk[k - 1])] for k in points],
    "threshold": threshold(sure, rows, ids, bootstrap=bootstrap),
  }


def _credit(row: Mapping[str, Any]) -> float:
  """AC of one output, in percent."""
  right = row["answerable"] and not row["is_refusal"]
  return row["correctness"] if right else 0.0


def _tied(
  keys: Sequence[Any], credit: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
  """The credit with equal keys averaged: no order among them is better."""
  out, start = credit.copy(), 0
  for end in range(1, len(keys) + 1):
    if end == len(keys) or keys[end] != keys[start]:
      out[start:end] = credit[start:end].mean()
      start = end
  return out


def _risks(credit: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
  """The risk after answering the first k questions, for k = 1 .. N."""
  return 100 - np.cumsum(credit) / np.arange(1, len(credit) + 1)


def threshold(
  confidence: Float[np.ndarray, " N"],
  rows: Rows,
  ids: Sequence[str],
  *,
  bootstrap: int = 0,
) -> dict[str, Any] | None:
  """TRUST when answers below a confidence become refusals.

  The threshold is the one with the highest TRUST on one half of each task's
  records (the lowest of them if several are), which may be none at all; what
  is reported is measured on the other half.

  Returns:
    `confidence` (None: nothing is refused), `trust_chosen_on` of the first
    half, `trust`, `trust_without` and `answered_ratio` of the second, and
    `difference` = [trust - trust_without, low, high] paired.
  """
  dev, test = _halves(rows, ids)
  if min(len(dev), len(test)) < 2:
    return None
  marks = np.quantile(confidence[dev], np.linspace(0, 1, _POINTS))
  best, mark = -1.0, -np.inf
  for tried in (-np.inf, *np.unique(marks)):
    trust = _macro(refusing(rows, confidence, tried, dev))["trust"]
    if trust > best:
      best, mark = trust, tried
  with_, without = (refusing(rows, confidence, m, test) for m in (mark, None))
  scores = _macro(with_)
  found = trust_score.difference(with_, without, n=bootstrap)
  return {
    "confidence": float(mark) if np.isfinite(mark) else None,
    "trust_chosen_on": best,
    "trust": scores["trust"],
    "trust_without": _macro(without)["trust"],
    "difference": list(found["trust"]),
    "answered_ratio": scores["answered_ratio"],
    "records": len(test),
  }


def refusing(
  rows: Rows,
  confidence: Float[np.ndarray, " N"],
  mark: float | None,
  which: Sequence[int],
) -> list[dict[str, Any]]:
  """Some of the rows, those below the mark as if the policy had refused."""
  refused = {
    "is_refusal": True,
    "is_refusal_no_citations": True,
    "correctness": 0.0,
    "parametric": 0.0,
  }
  below = lambda i: mark is not None and confidence[i] < mark
  return [{**rows[i], **(refused if below(i) else {})} for i in which]


def _macro(rows: Rows) -> dict[str, float]:
  return trust_score.by_task(rows)["macro"]


def _halves(rows: Rows, ids: Sequence[str]) -> tuple[list[int], list[int]]:
  """The indices of two halves of each task, by the ids' hashes."""
  digest = lambda i: hashlib.sha256(ids[i].encode()).hexdigest()
  halves = ([], [])
  for task in dict.fromkeys(row["task"] for row in rows):
    own = [i for i, row in enumerate(rows) if row["task"] == task]
    for place, i in enumerate(sorted(own, key=digest)):
      halves[place % 2].append(i)
  return tuple(sorted(half) for half in halves)
