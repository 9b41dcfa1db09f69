"""TRUST-SCORE of any system's outputs: the published evaluator's numbers.

TRUST is the mean of F1_AC (answers), F1_GR (refusals) and F1_GC (citations),
in percent.  Written from a description of the evaluator's behaviour, its
quirks included (paper.md section 5): the refusal test of the output as it is
and again without citations, two-decimal answered_ratio, means over nothing.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from grounded_jax import text
from grounded_jax.records import TASKS, UserError, check_doc
from grounded_jax.trust_score import citations, correctness
from grounded_jax.trust_score.bootstrap import Pair, difference, intervals
from grounded_jax.trust_score.concise import brevity
from grounded_jax.trust_score.extras import Extras
from grounded_jax.trust_score.summary import METRICS
from grounded_jax.trust_score.table import by_task, collect
from grounded_jax.verifiers import Verifier

__all__ = (
  "METRICS",
  "Extras",
  "Pair",
  "by_task",
  "collect",
  "difference",
  "evaluate",
  "evaluate_mixed",
  "intervals",
  "iterate",
  "per_record",
)

REFUSAL_FLAG = "I apologize, but I couldn't find an answer"
_CHUNK = 512  # records per round of verifier calls: what bounds the memory


def evaluate(
  records: Iterable[Mapping[str, Any]],
  *,
  task: str,
  verifier: Verifier,
  splitter: text.Splitter,
  refusal_flag: str = REFUSAL_FLAG,
  refusal_threshold: int = 85,
  at_most_citations: int = 3,
) -> dict[str, float]:
  """The metrics of `METRICS`, in percent, over records of one task.

  Args:
    records: question, answers, docs (title, text, answers_found) and output.
    task: short, list or claims.
    verifier: called with premises and hypotheses; asked in few batches.
    splitter: the sentences of an output; not used for lists.
    refusal_flag: what a refusal says.
    refusal_threshold: a refusal's similarity is strictly above it.
    at_most_citations: of a sentence, so many count.
  """
  rows = iterate(
    ({**record, "task": task} for record in records),
    verifier=verifier,
    splitter=splitter,
    refusal_flag=refusal_flag,
    refusal_threshold=refusal_threshold,
    at_most_citations=at_most_citations,
  )
  scores = by_task(rows)
  return scores[task]


def evaluate_mixed(
  records: Iterable[Mapping[str, Any]],
  *,
  verifier: Verifier,
  splitter: text.Splitter,
  **options: Any,
) -> dict[str, dict[str, float]]:
  """The metrics by the records' own `task`, and their mean under "macro"."""
  return by_task(
    iterate(records, verifier=verifier, splitter=splitter, **options)
  )


def per_record(
  records: Iterable[Mapping[str, Any]],
  *,
  task: str = "",
  verifier: Verifier,
  splitter: text.Splitter,
  **options: Any,
) -> list[dict[str, Any]]:
  """What each record contributes; the rows that `intervals` resamples.

  Args:
    records: as for `evaluate`.
    task: of all the records; "" = each record's own `task`.
    verifier: as for `evaluate`.
    splitter: as for `evaluate`.
    **options: as for `evaluate`.
  """
  named = ({**record, "task": task or record.get("task")} for record in records)
  return list(iterate(named, verifier=verifier, splitter=splitter, **options))


def iterate(
  records: Iterable[Mapping[str, Any]],
  *,
  verifier: Verifier,
  splitter: text.Splitter,
  refusal_flag: str = REFUSAL_FLAG,
  refusal_threshold: int = 85,
  at_most_citations: int = 3,
) -> Iterator[dict[str, Any]]:
  """Yields one row per record, in order, holding only a chunk at a time.

  A row has id (None without), task, question, answerable, supported and found
  (one bool per gold), correctness and parametric (percent, 0 for a refusal),
  refusal_score and is_refusal of the output as it is and without citations
  (..._no_citations), sentences, citation_recall and citation_precision
  (percent; None without a sentence), brevity (0..1, module `concise`).

  Raises:
    UserError: there are no records, or one cannot be scored.
  """
  records = iter(records)
  number = 0
  while chunk := list(itertools.islice(records, _CHUNK)):
    for record in chunk:
      number += 1
      _check(number, record)
    rows = [_refusals(r, refusal_flag, refusal_threshold) for r in chunk]
    _correctness(chunk, rows, verifier)
    for task in TASKS:
      _citations(
        task,
        [
          (r, row)
          for r, row in zip(chunk, rows, strict=True)
          if row["task"] == task
        ],
        verifier=verifier,
        splitter=splitter,
        at_most_citations=at_most_citations,
      )
    yield from rows
  if not number:
    raise UserError("There are no records to score.")


def _check(number: int, record: Mapping[str, Any]) -> None:
  """Refuses what the formulas have no meaning for."""
  for name in ("task", "question", "answers", "docs", "output"):
    if record.get(name) is None:
      raise UserError(f"Record {number} has no {name!r}.")
  if record["task"] not in TASKS:
    raise UserError(
      f"Record {number}: task {record['task']!r} must be one of"
      f" {', '.join(TASKS)}."
    )
  if not record["docs"]:
    raise UserError(f"Record {number} has no docs: it cannot be scored.")
  golds = len(record["answers"])
  for place, doc in enumerate(record["docs"], start=1):
    check_doc(f"Record {number}, doc {place}", doc, golds)


def _refusals(
  record: Mapping[str, Any], flag: str, threshold: int
) -> dict[str, Any]:
  bare = text.remove_citations(record["output"])
  bits = [doc["answers_found"] for doc in record["docs"]]
  supported = [any(column) for column in zip(*bits, strict=True)]
  as_is, without = (
    text.refusal_similarity(flag, output) for output in (record["output"], bare)
  )
  return {
    "id": record.get("id"),
    "task": record["task"],
    "question": record["question"],
    "answerable": any(supported),
    "supported": supported,
    "output_no_citations": bare,
    "refusal_score": as_is,
    "is_refusal": as_is > threshold,
    "refusal_score_no_citations": without,
    "is_refusal_no_citations": without > threshold,
    "brevity": brevity(record),
  }


def _correctness(
  records: Sequence[Mapping[str, Any]],
  rows: Sequence[dict[str, Any]],
  verifier: Verifier,
) -> None:
  """Adds `found`, `correctness` and `parametric`; claims in one call.

  Claims are read with citations removed twice ("[[1]2]" leaves "[2" after
  the first time), and only a claim's first wording counts (as published).
  """
  claims = [
    (text.remove_citations(row["output_no_citations"]), claim[0])
    for record, row in zip(records, rows, strict=True)
    if row["task"] == "claims"
    for claim in record["answers"]
  ]
  entailed = citations.ask(verifier, claims)
  for record, row in zip(records, rows, strict=True):
    answers, output = record["answers"], row["output_no_citations"]
    supported = row["supported"]
    if row["task"] == "list":
      found = correctness.listed(answers, output)
      score = correctness.list_f1(answers, output, found, supported)
    else:
      found = (
        list(itertools.islice(entailed, len(answers)))
        if row["task"] == "claims"
        else correctness.contained(answers, output)
      )
      score = correctness.share(found, supported)
    answered = not row["is_refusal_no_citations"]
    row["found"] = found
    row["correctness"] = 100 * score if answered else 0.0
    most = correctness.TOP if row["task"] == "list" else None
    unsupported = correctness.parametric(found, supported, most)
    row["parametric"] = 100 * unsupported if answered else 0.0


def _citations(
  task: str,
  pairs: Sequence[tuple[Mapping[str, Any], dict[str, Any]]],
  **options: Any,
) -> None:
  """Adds sentences, citation_recall and citation_precision to the rows."""
  records = [record for record, _ in pairs]
  checked = citations.check(records, task=task, **options)
  for (_, row), cited in zip(pairs, checked, strict=True):
    row["sentences"] = list(cited.sentences)
    row["citation_recall"] = _percent(cited.recall)
    row["citation_precision"] = _percent(cited.precision)


def _percent(value: float | None) -> float | None:
  return None if value is None else 100 * value
