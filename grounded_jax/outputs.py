"""Reads systems' outputs: ours, the published evaluator's, or plain lists.

A file is JSON lines, a JSON list of records, or {"data": [...]}.  Records are
read one at a time, so that a long file need not fit in memory.
"""

import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

from grounded_jax import jsonstream
from grounded_jax.records import UserError, absence, find_task

_KINDS = {str: "text", list: "a list", dict: "an object", bool: "true or false"}


def read(
  path: pathlib.Path | str, *, task: str = "", docs: int = 0
) -> Iterator[dict[str, Any]]:
  """Yields the records of a file, checked, each with its `task`.

  Gold answers may stand as `answers`, or as in the data sets themselves:
  `short_answers` of each of `qa_pairs` (ASQA), or `claims` (ELI5).  A passage
  may lack `answers_found`.

  Args:
    path: the file.
    task: of all of them; "" = the record's own, or its dataset's.
    docs: so many passages were shown, the first ones; 0 = all that a record
      has.

  Raises:
    UserError: names the file and line (or record) of what cannot be scored.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"The outputs file {path} {absence(path)}.")
  empty = True
  try:
    for where, record in jsonstream.records(path):
      empty = False
      yield _checked(where, record, task, docs)
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8 text ({error.reason}).") from None
  if empty:
    raise UserError(f"{path} holds no records.")


def _checked(where: str, record: Any, task: str, docs: int) -> dict[str, Any]:
  if type(record) is not dict:
    raise UserError(f"{where} is not an object with question, docs and output.")
  record = with_answers(where, record)
  for name, kind in (
    ("question", str),
    ("answers", list),
    ("docs", list),
    ("output", str),
  ):
    _typed(where, record, name, kind)
  if record.get("raw_output") is not None:
    _typed(where, record, "raw_output", str)
  for number, aliases in enumerate(record["answers"], start=1):
    if type(aliases) is not list or not aliases:
      raise UserError(
        f"{where}: answer {number} must be a list of at least one alias."
      )
    if not all(type(alias) is str for alias in aliases):
      raise UserError(f"{where}: answer {number} holds something not text.")
  if not record["docs"]:
    raise UserError(f"{where} has no docs: outputs are scored with passages.")
  shown = record["docs"][:docs] if docs else record["docs"]
  for number, doc in enumerate(shown, start=1):
    _check_doc(f"{where}, doc {number}", doc, len(record["answers"]))
  task = find_task(where, task or record.get("task"), record.get("dataset"))
  return {**record, "docs": shown, "task": task}


def with_answers(where: str, record: dict[str, Any]) -> dict[str, Any]:
  """The record with `answers`, and the task that other names imply."""
  if record.get("answers") is not None:
    return record
  if record.get("qa_pairs") is not None:  # ASQA
    _typed(where, record, "qa_pairs", list)
    pairs = record["qa_pairs"]
    if not all(
      type(pair) is dict and "short_answers" in pair for pair in pairs
    ):
      raise UserError(f"{where}: each of 'qa_pairs' needs 'short_answers'.")
    answers, task = [pair["short_answers"] for pair in pairs], "short"
  elif record.get("claims") is not None:  # ELI5
    _typed(where, record, "claims", list)
    answers, task = [[claim] for claim in record["claims"]], "claims"
  else:
    return record
  known = record.get("task") or record.get("dataset")
  return {**record, "answers": answers} | ({} if known else {"task": task})


def _check_doc(where: str, doc: Any, golds: int) -> None:
  if type(doc) is not dict:
    raise UserError(f"{where} is not an object with title and text.")
  for name, kind in (("title", str), ("text", str)):
    _typed(where, doc, name, kind)
  if doc.get("answers_found") is None:
    return
  _typed(where, doc, "answers_found", list)
  bits = doc["answers_found"]
  if len(bits) != golds or any(bit not in (0, 1) for bit in bits):
    raise UserError(
      f"{where}: answers_found must hold one 0 or 1 for each of the"
      f" {golds} answers, not {bits}."
    )


def _typed(where: str, value: dict[str, Any], name: str, kind: type) -> None:
  if name not in value:
    raise UserError(f"{where} has no {name!r}.")
  if type(value[name]) is not kind:
    raise UserError(
      f"{where}: {name!r} must be {_KINDS[kind]}, not"
      f" {type(value[name]).__name__}."
    )


def peek(path: pathlib.Path | str, *, task: str = "") -> dict[str, Any]:
  """The first record of an outputs file, checked."""
  return next(itertools.islice(read(path, task=task), 1))
