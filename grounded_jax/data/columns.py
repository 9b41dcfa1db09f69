"""Rows of other shapes as records: other names, other nesting.

Names are mapped by the config; the shapes of ALCE's files (`qa_pairs`,
`claims`) and tables of passages need no mapping.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from grounded_jax import outputs
from grounded_jax.records import TASK_OF_DATASET, UserError

IN_DOCS = ("title", "text", "answers_found")


def dataset_of(location: str) -> str:
  """The data set that a file's name begins with, as in asqa_eval.json."""
  first = re.split(r"[_.:@-]", pathlib.Path(location).name.lower())[0]
  return first if first in TASK_OF_DATASET else ""


def record(
  where: str,
  row: dict[str, Any],
  *,
  names: Mapping[str, str],
  dataset: str = "",
  task: str = "",
) -> dict[str, Any]:
  """The record that a row states.

  Args:
    where: names the row in messages.
    row: as it was read.
    names: the row's own names by the record's; title, text and answers_found
      are those of a passage.
    dataset: of a row that states neither that nor a task.
    task: of every row; "" = the row's own.

  Raises:
    UserError: a mapped column is not there.
  """
  out = dict(row)
  for ours, theirs in names.items():
    if ours not in IN_DOCS:
      if theirs not in row:
        raise UserError(
          f"{where} has no column {theirs!r} (columns: {ours}={theirs}); it"
          f" has: {', '.join(row)}."
        )
      out[ours] = row[theirs]
  if dataset and not out.get("dataset") and not out.get("task"):
    out["dataset"] = dataset
  out = outputs.with_answers(where, out)
  known = str(out.get("dataset") or "").lower()
  task = task or out.get("task") or TASK_OF_DATASET.get(known, "")
  if "answers" in names:
    out["answers"] = _listed(out["answers"], task)
  if "docs" in out:
    out["docs"] = _passages(where, out["docs"], names)
  return out


def _listed(answers: Any, task: str) -> Any:
  """Bare strings as lists of aliases: of one short answer, else one each."""
  if type(answers) is str:
    return [[answers]]
  if type(answers) is not list or not all(type(a) is str for a in answers):
    return answers
  return [answers] if task == "short" and answers else [[a] for a in answers]


def _passages(where: str, docs: Any, names: Mapping[str, str]) -> Any:
  """Passages as a list of objects with our names.

  A table (an object of lists) is turned round.  Of mapped docs a bare string is
  a text, and a passage may lack a title.
  """
  if (
    type(docs) is dict and docs and all(type(v) is list for v in docs.values())
  ):
    if len({len(column) for column in docs.values()}) > 1:
      raise UserError(f"{where}: the columns of 'docs' differ in length.")
    docs = [
      dict(zip(docs, row, strict=True))
      for row in zip(*docs.values(), strict=True)
    ]
  if type(docs) is not list or not names:
    return docs
  return [
    _passage(f"{where}, doc {i}", d, names) for i, d in enumerate(docs, 1)
  ]


def _passage(where: str, doc: Any, names: Mapping[str, str]) -> Any:
  if "docs" in names and type(doc) is str:
    doc = {"text": doc}
  if type(doc) is not dict:
    return doc
  out = {"title": ""} | doc if "docs" in names else dict(doc)
  for ours in IN_DOCS:
    if ours in names and names[ours] not in doc:
      raise UserError(
        f"{where} has no {names[ours]!r} (columns: {ours}={names[ours]})."
      )
    if ours in names:
      out[ours] = doc[names[ours]]
  return out
