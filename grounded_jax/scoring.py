"""TRUST-SCORE of records with outputs, as the files of a run hold it.

No jax here: the outputs may be any system's.
"""

import collections
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from grounded_jax import (
  config,
  files,
  log,
  sentences,
  text,
  trust_score,
  verifiers,
)
from grounded_jax.data import support
from grounded_jax.records import Completion, Example
from grounded_jax.trust_score import bootstrap as bootstrap_lib
from grounded_jax.trust_score import summary, table


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
  """What scoring leaves of a system's records: numbers, no texts."""

  tables: table.Tables
  extras: dict[str, float]
  meta: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """How outputs are read; scores of different options do not compare."""

  splitter: str = "punkt"  # one of config.SPLITTERS
  refusal_flag: str = trust_score.REFUSAL_FLAG
  refusal_threshold: int = 85  # a refusal's similarity is above it
  at_most_citations: int = 3  # of a sentence, so many count
  rouge: bool = False  # also ROUGE-L, where the extra [text] is installed


def read(
  records: Iterable[Mapping[str, Any]],
  verifier: config.Verifier | verifiers.Verifier,
  options: Options,
) -> Scored:
  """Scores records as they come, in bounded memory.

  Args:
    records: as for `trust_score.iterate`; where `answers_found` is missing it
      is computed, as the loader of records does.
    verifier: a config, or any verifier that has a `name`.
    options: how outputs are read.
  """
  judge, name = _judge(verifier)
  why_no_rouge = _rouge_reason(options)
  beside = trust_score.Extras(with_rouge=not why_no_rouge)
  seen = collections.Counter()
  stream, kept = itertools.tee(_supported(records, judge, seen))
  rows = trust_score.iterate(
    stream,
    verifier=judge,
    splitter=text.splitter(options.splitter),
    refusal_flag=options.refusal_flag,
    refusal_threshold=options.refusal_threshold,
    at_most_citations=options.at_most_citations,
  )
  tables = table.collect(_counting(rows, kept, beside))
  extras = beside.means()
  extras |= table.scores(tables, summary.parametric)["macro"]
  if not why_no_rouge and math.isnan(extras["rouge_l"]):
    why_no_rouge = "no answered record has a long reference"
  sizes = {task: len(t.ids) for task, t in tables.items()}
  drawn = {task: int(t.clusters().max()) + 1 for task, t in tables.items()}
  whole = "records" if drawn == sizes else "questions, with all their records"
  meta = {
    "verifier": name,
    "splitter": options.splitter,
    "versions": _versions(options.splitter),
    "refusal_flag": options.refusal_flag,
    "refusal_threshold": options.refusal_threshold,
    "at_most_citations": options.at_most_citations,
    "records": sum(sizes.values()),
    "resampled": f"{sum(drawn.values())} {whole}",
    "passages": seen["passages"] / seen["records"],
    "answers_found_computed": seen["computed"],
  }
  if why_no_rouge:
    meta["rouge_l"] = f"not computed: {why_no_rouge}"
  return Scored(tables=tables, extras=extras, meta=meta)


def _supported(
  records: Iterable[Mapping[str, Any]],
  judge: verifiers.Verifier,
  seen: collections.Counter[str],
) -> Iterator[Mapping[str, Any]]:
  """The records, `answers_found` computed where it is missing, and counted."""
  for record in records:
    found = support.completed(record, judge)
    seen["records"] += 1
    seen["computed"] += found is not record
    seen["passages"] += len(found.get("docs") or ())
    yield found


def _counting(
  rows: Iterable[dict[str, Any]],
  records: Iterable[Mapping[str, Any]],
  beside: trust_score.Extras,
) -> Iterator[dict[str, Any]]:
  for row, record in zip(rows, records, strict=True):
    beside.add(record, row)
    yield row


def _judge(
  verifier: config.Verifier | verifiers.Verifier,
) -> tuple[verifiers.Verifier, str]:
  if isinstance(verifier, config.Verifier):
    return verifiers.make(verifier), describe(verifier)
  return verifier, verifier.name


def _rouge_reason(options: Options) -> str:
  """Why there is no ROUGE-L; "" if there is."""
  if not options.rouge:
    return "not asked for"
  if importlib.util.find_spec("tensorflow_text") is None:
    return "tensorflow-text (the extra [text]) is not installed"
  return ""


def _versions(splitter: str) -> dict[str, str]:
  names = {"Levenshtein": importlib.metadata.version("Levenshtein")}
  return names | sentences.versions(splitter)


def report(scored: Scored, *, bootstrap: int = 0) -> dict[str, Any]:
  """TRUST-SCORE of what was read, as stored in JSON.

  The metrics on top are the task's, or the mean over the tasks; `tasks` has
  each task's own, `answerable_only` those over the answerable records,
  `concise` those where length costs (`trust_score.concise`).
  """
  tables = scored.tables
  tasks = table.scores(tables)
  out = tasks.pop("macro")
  if len(tasks) > 1:
    out |= {"tasks": tasks}
  if answerable := table.answerable(tables):
    out |= {"answerable_only": table.scores(answerable)["macro"]}
  concise: dict[str, Any] = table.scores(tables, summary.concise)["macro"]
  if bootstrap:
    drawn = bootstrap_lib.resample(tables, n=bootstrap)
    spans = bootstrap_lib.spans(drawn)
    out |= {"intervals": {name: list(span) for name, span in spans.items()}}
    spans = bootstrap_lib.spans(drawn, summary.concise)
    concise |= {"intervals": {name: list(x) for name, x in spans.items()}}
  return out | {
    "concise": concise,
    "extras": scored.extras,
    "meta": scored.meta | {"bootstrap": bootstrap},
  }


def score(
  records: Iterable[Mapping[str, Any]],
  verifier: config.Verifier | verifiers.Verifier,
  *,
  splitter: str,
  bootstrap: int = 0,
  **options: Any,
) -> dict[str, Any]:
  """TRUST-SCORE of records with outputs, as stored in JSON (`report`).

  Args:
    records: in the format of `record`.
    verifier: a config, or any verifier that has a `name`.
    splitter: the name of one.
    bootstrap: resamples of the intervals; 0 = none.
    **options: further fields of `Options`.
  """
  how = Options(splitter=splitter, **options)
  return report(read(records, verifier, how), bootstrap=bootstrap)


def compare(ours: Scored, theirs: Scored, *, bootstrap: int) -> dict[str, Any]:
  """(mean, low, high) of each metric of `ours` minus `theirs`, paired.

  Those of `concise` stand under that name.  The ends are NaN without a
  bootstrap.

  Raises:
    UserError: the two are not outputs for the same questions.
  """
  pair = bootstrap_lib.Pair(ours.tables, theirs.tables, n=bootstrap)
  listed = lambda found: {name: list(x) for name, x in found.items()}
  return listed(pair.difference()) | {
    "concise": listed(pair.difference(summary.concise))
  }


def difference(
  records: Iterable[Mapping[str, Any]],
  against: Iterable[Mapping[str, Any]],
  verifier: config.Verifier | verifiers.Verifier,
  *,
  splitter: str,
  bootstrap: int,
  **options: Any,
) -> dict[str, list[float]]:
  """(mean, low, high) of each metric's paired difference (`compare`)."""
  how = Options(splitter=splitter, **options)
  ours, theirs = (read(x, verifier, how) for x in (records, against))
  found = compare(ours, theirs, bootstrap=bootstrap)
  return {name: found[name] for name in trust_score.METRICS}


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
  gap = ""
  if "verifier_gap" in metrics:
    gap = f"  gap {metrics['verifier_gap']:+.1f}"
  tasks = "  ".join(
    f"{task} {scores['trust']:.1f}"
    for task, scores in metrics.get("tasks", {}).items()
  )
  return (
    f"TRUST {metrics['trust']:.1f}{span}  F1_AC {metrics['f1_ac']:.1f}"
    f"  F1_GR {metrics['f1_gr']:.1f}  F1_GC {metrics['f1_gc']:.1f}"
    f"  answered {metrics['answered_ratio']:.0f}%{gap}  {tasks}"
  ).rstrip()
