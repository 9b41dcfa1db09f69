"""Reads systems' outputs: ours, the published evaluator's, or plain lists.

A file is JSON lines, a JSON list of records, or {"data": [...]}.  Lines are
read one at a time, so that a long file need not fit in memory.
"""

import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from grounded_jax.records import UserError, absence, find_task, parse_json

_KINDS = {str: "text", list: "a list", dict: "an object", bool: "true or false"}


def read(
  path: pathlib.Path | str, *, task: str = ""
) -> Iterator[dict[str, Any]]:
  """Yields the records of a file, checked, each with its `task`.

  Args:
    path: the file.
    task: of all of them; "" = the record's own, or its dataset's.

  Raises:
    UserError: names the file and line (or record) of what cannot be scored.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"The outputs file {path} {absence(path)}.")
  empty = True
  try:
    for where, record in _records(path):
      empty = False
      yield _checked(where, record, task)
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8 text ({error.reason}).") from None
  if empty:
    raise UserError(f"{path} holds no records.")


def _records(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  with path.open(encoding="utf-8-sig") as file:
    first = file.readline()
    while first and not first.strip():
      first = file.readline()
  try:
    value = json.loads(first) if first else {}
  except (RecursionError, ValueError):
    value = None  # one JSON value over many lines, or a bad first line
  if type(value) is dict and "data" not in value:
    yield from _lines(path)
  elif value is None and first.lstrip().startswith("{") and len(first) > 2:
    yield from _lines(path) if first.rstrip().endswith("}") else _whole(path)
  else:
    yield from _whole(path)


def _lines(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  with path.open(encoding="utf-8-sig") as file:
    for number, line in enumerate(file, start=1):
      if line.strip():
        yield f"{path} line {number}", parse_json(line.rstrip(), path, number)


def _whole(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  value = parse_json(path.read_text("utf-8-sig"), path)
  if type(value) is dict:
    value = value.get("data", [value])
  if type(value) is not list:
    raise UserError(f'{path} must hold a list of records or {{"data": [...]}}.')
  for number, record in enumerate(value, start=1):
    yield f"{path} record {number}", record


def _checked(where: str, record: Any, task: str) -> dict[str, Any]:
  if type(record) is not dict:
    raise UserError(f"{where} is not an object with question, docs and output.")
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
  for number, doc in enumerate(record["docs"], start=1):
    _check_doc(f"{where}, doc {number}", doc, len(record["answers"]))
  task = find_task(where, task or record.get("task"), record.get("dataset"))
  return {**record, "task": task}


def _check_doc(where: str, doc: Any, golds: int) -> None:
  if type(doc) is not dict:
    raise UserError(f"{where} is not an object with title and text.")
  for name, kind in (("title", str), ("text", str), ("answers_found", list)):
    _typed(where, doc, name, kind)
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
