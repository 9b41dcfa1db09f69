"""From per-record rows to the metrics: every metric is a function of sums.

One formula serves the score itself and its bootstrap resamples, which are
sums under other weights.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

METRICS = (
  "trust",
  "f1_ac",
  "p_ac",
  "r_ac",
  "f1_gr",
  "refusal_f1",
  "refusal_precision",
  "refusal_recall",
  "answer_f1",
  "answer_precision",
  "answer_recall",
  "f1_gc",
  "citation_precision",
  "citation_recall",
  "answered_ratio",
)
CONCISE = ("trust", "f1_ac", "f1_gc")

# What is summed over the records; the order of a row's columns.
COLUMNS = (
  "records",
  "answered",
  "answerable",
  "right_refusals",  # refused and unanswerable
  "right_answers",  # answered and answerable
  "p_count",  # the denominator of P_AC
  "p_credit",
  "r_credit",
  "cited",  # answered, with at least one sentence
  "recall",
  "precision",
  "parametric",
  # The credits once more, each times its record's brevity (`concise`).
  "concise_p_credit",
  "concise_r_credit",
  "concise_recall",
  "concise_precision",
)


def row_sums(row: Mapping[str, Any]) -> tuple[float, ...]:
  """What one row adds to each of `COLUMNS`."""
  answered, answerable = not row["is_refusal"], row["answerable"]
  # Claims leave out what refuses once citations are removed; the other tasks
  # leave out what refuses as it stands, and score the former 0.
  counted = (
    not row["is_refusal_no_citations"] if row["task"] == "claims" else answered
  )
  cited = answered and row["citation_recall"] is not None
  credits = (
    counted * row["correctness"],
    answerable * row["correctness"],
    row["citation_recall"] if cited else 0,
    row["citation_precision"] if cited else 0,
  )
  p_credit, r_credit, recall, precision = credits
  values = (
    1,
    answered,
    answerable,
    not answered and not answerable,
    answered and answerable,
    counted,
    p_credit,
    r_credit,
    cited,
    recall,
    precision,
    counted * row["parametric"],
    *(row["brevity"] * credit for credit in credits),
  )
  return tuple(float(value) for value in values)


def metrics(
  sums: Float[np.ndarray, "R K"],
) -> dict[str, Float[np.ndarray, " R"]]:
  """The metrics, in percent, of R sums of columns (paper.md section 5)."""
  s = _named(sums)
  # Refusal and answer F1 and their mean, F1_GR.
  refusal_precision = _ratio(s["right_refusals"], s["records"] - s["answered"])
  refusal_recall = _ratio(s["right_refusals"], s["records"] - s["answerable"])
  answer_precision = _ratio(s["right_answers"], s["answered"])
  answer_recall = _ratio(s["right_answers"], s["answerable"])
  refusal_f1 = _harmonic(refusal_precision, refusal_recall)
  answer_f1 = _harmonic(answer_precision, answer_recall)
  f1_gr = (refusal_f1 + answer_f1) / 2
  # P_AC over the answered, R_AC over the answerable; credits are percent.
  p_ac = _ratio(s["p_credit"], s["p_count"]) / 100
  r_ac = _ratio(s["r_credit"], s["answerable"]) / 100
  f1_ac = _harmonic(p_ac, r_ac)
  # Citations, over answered outputs that have a sentence.
  citation_precision = _ratio(s["precision"], s["cited"]) / 100
  citation_recall = _ratio(s["recall"], s["cited"]) / 100
  f1_gc = _harmonic(citation_precision, citation_recall)
  answered_ratio = np.round(_ratio(s["answered"], s["records"]), 2)
  values = (
    (f1_ac + f1_gr + f1_gc) / 3,
    f1_ac,
    p_ac,
    r_ac,
    f1_gr,
    refusal_f1,
    refusal_precision,
    refusal_recall,
    answer_f1,
    answer_precision,
    answer_recall,
    f1_gc,
    citation_precision,
    citation_recall,
    answered_ratio,
  )
  return dict(zip(METRICS, values, strict=True))


def concise(
  sums: Float[np.ndarray, "R K"],
) -> dict[str, Float[np.ndarray, " R"]]:
  """TRUST, F1_AC and F1_GC where a record's credit is cut by its length.

  The published formulas over credits times brevity (module `concise`); F1_GR
  is the published one, since whether to answer has no length.
  """
  s = _named(sums)
  f1_ac = _harmonic(
    _ratio(s["concise_p_credit"], s["p_count"]) / 100,
    _ratio(s["concise_r_credit"], s["answerable"]) / 100,
  )
  f1_gc = _harmonic(
    _ratio(s["concise_precision"], s["cited"]) / 100,
    _ratio(s["concise_recall"], s["cited"]) / 100,
  )
  trust = (f1_ac + metrics(sums)["f1_gr"] + f1_gc) / 3
  return dict(zip(CONCISE, (trust, f1_ac, f1_gc), strict=True))


def parametric(
  sums: Float[np.ndarray, "R K"],
) -> dict[str, Float[np.ndarray, " R"]]:
  """Mean percent, over the answered, of the golds found without support."""
  s = _named(sums)
  return {"parametric_rate": _ratio(s["parametric"], s["p_count"]) / 100}


def _named(sums: np.ndarray) -> dict[str, np.ndarray]:
  return {name: sums[:, k] for k, name in enumerate(COLUMNS)}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  """100 * part / whole, and 0 where whole is 0."""
  return 100 * np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _harmonic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  return np.divide(2 * a * b, a + b, out=np.zeros_like(a), where=a + b > 0)
