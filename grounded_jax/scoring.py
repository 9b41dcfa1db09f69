"""TRUST-SCORE of records with outputs, as the files of a run hold it.

No jax here: the outputs may be any system's.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from grounded_jax import config, files, log, text, trust_score, verifiers
from grounded_jax.records import Completion, Example


def record(example: Example, completion: Completion) -> dict[str, Any]:
  """The example with its output, in the format that --mode=score reads."""
  return {
    "id": example.id,
    "dataset": example.dataset,
    "task": example.task,
    "question": example.question,
    "answers": [list(aliases) for aliases in example.answers],
    "docs": [
      {
        "title": doc.title,
        "text": doc.text,
        "answers_found": list(doc.answers_found),
      }
      for doc in example.docs
    ],
    "answerable": example.answerable,
    "output": completion.answer,
    "raw_output": completion.text,
  }


def bare(row: Mapping[str, Any]) -> dict[str, Any]:
  """A record without what the policy wrote."""
  return {k: v for k, v in row.items() if k not in ("output", "raw_output")}


def score(
  records: Sequence[Mapping[str, Any]],
  verifier: config.Verifier,
  *,
  splitter: str,
  bootstrap: int = 0,
  refusal_flag: str = trust_score.REFUSAL_FLAG,
  refusal_threshold: int = 85,
) -> dict[str, Any]:
  """TRUST-SCORE of records with outputs, as stored in JSON.

  The metrics on top are the task's, or the mean over the tasks; `tasks` has
  each task's own, `answerable_only` those over the answerable records.
  """
  rows = trust_score.per_record(
    records,
    verifier=verifiers.make(verifier),
    splitter=text.splitter(splitter),
    refusal_flag=refusal_flag,
    refusal_threshold=refusal_threshold,
  )
  tasks = trust_score.by_task(rows)
  out = tasks.pop("macro")
  if len(tasks) > 1:
    out |= {"tasks": tasks}
  answerable = [row for row in rows if row["answerable"]]
  if answerable:
    out |= {"answerable_only": trust_score.by_task(answerable)["macro"]}
  if bootstrap:
    spans = trust_score.intervals(rows, n=bootstrap)
    out |= {"intervals": {name: list(span) for name, span in spans.items()}}
  return out | {
    "extras": trust_score.extras(records),
    "meta": {
      "verifier": describe(verifier),
      "splitter": splitter,
      "records": len(records),
      "bootstrap": bootstrap,
    },
  }


def difference(
  records: Sequence[Mapping[str, Any]],
  against: Sequence[Mapping[str, Any]],
  verifier: config.Verifier,
  *,
  splitter: str,
  bootstrap: int,
) -> dict[str, list[float]]:
  """(mean, low, high) of each metric of `records` minus `against`, paired.

  The ends are NaN without a bootstrap.
  """
  judge, split = verifiers.make(verifier), text.splitter(splitter)
  ours, theirs = (
    trust_score.per_record(x, verifier=judge, splitter=split)
    for x in (records, against)
  )
  found = trust_score.difference(ours, theirs, n=bootstrap)
  return {name: list(values) for name, values in found.items()}


def describe(verifier: config.Verifier) -> str:
  """The verifier in a word, with the option that changes its verdicts."""
  if verifier.kind == "lexical":
    return f"lexical({verifier.threshold})"
  if verifier.path:
    dtype = f", {verifier.dtype}" if verifier.dtype else ""
    return f"{verifier.kind}({files.label(verifier.path)}{dtype})"
  return verifier.kind


def digest(value: Any) -> str:
  """A short hash of any JSON value."""
  return hashlib.sha256(log.dumps(value).encode()).hexdigest()[:16]


def line(metrics: Mapping[str, Any]) -> str:
  """An evaluation in a line for people."""
  span = ""
  if "intervals" in metrics:
    low, high = metrics["intervals"]["trust"]
    span = f" [{low:.1f}, {high:.1f}]"
  tasks = "  ".join(
    f"{task} {scores['trust']:.1f}"
    for task, scores in metrics.get("tasks", {}).items()
  )
  return (
    f"TRUST {metrics['trust']:.1f}{span}  F1_AC {metrics['f1_ac']:.1f}"
    f"  F1_GR {metrics['f1_gr']:.1f}  F1_GC {metrics['f1_gc']:.1f}"
    f"  answered {metrics['answered_ratio']:.0f}%  {tasks}"
  ).rstrip()
