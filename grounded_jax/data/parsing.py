"""Rows of any source to `Example`s, in the format of Trust-Score.

Every mistake names the file and the line, or the row's number where a file has
no lines.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from grounded_jax.data import reading, support
from grounded_jax.records import (
  Doc,
  Example,
  UserError,
  find_task,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parsed:
  """An example, and whether its answers_found had to be computed."""

  example: Example
  computed: bool


def rows(
  path: pathlib.Path | str,
  *,
  streaming: bool = False,
  expected: str = "question, answers and docs",
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (where, row) for every row of a location, one at a time.

  Args:
    path: a file of JSON or parquet, or a dataset as hf:NAME[:CONFIG][@SPLIT].
    streaming: a dataset's rows as they come, without a copy on this machine.
    expected: what a row states, for messages.

  Raises:
    UserError: it is missing, or holds what is no row.
  """
  for where, row in reading.values(str(path), streaming=streaming):
    if type(row) is not dict:
      raise UserError(
        f"{where}: a row must be an object with {expected}, not {_kind(row)}."
      )
    reading.check_characters(where, row)
    yield where, row


def _kind(value: Any) -> str:
  return {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
  }.get(type(value), type(value).__name__)


def _field(where: str, record: dict[str, Any], name: str, kind: type) -> Any:
  if name not in record:
    raise UserError(f"{where} has no {name!r}.")
  value = record[name]
  if type(value) is not kind:
    raise UserError(
      f"{where}: {name!r} must be {_kind(kind())}, not {_kind(value)}."
    )
  return value


def _optional(where: str, record: dict[str, Any], name: str) -> str:
  if record.get(name) is None:
    return ""
  return _field(where, record, name, str)


def parse(
  where: str,
  record: dict[str, Any],
  *,
  task: str = "",
  passages: int = 0,
  verifier: support.Verifier | None = None,
  confirm: bool = True,
) -> Parsed:
  """The example that a record states, answerability recomputed.

  Args:
    where: names the record in messages.
    record: question, answers, docs; optional id, task, dataset.
    task: short, list or claims; "" = the record's own, or its dataset's.
    passages: how many of the docs are shown; 0 = all.
    verifier: asked where answers_found is missing.
    confirm: whether also about answers that are not claims.

  Raises:
    UserError: something is missing or of the wrong type.
  """
  question = _field(where, record, "question", str).strip()
  if not question:
    raise UserError(f"{where}: 'question' is empty.")
  answers = _answers(where, _field(where, record, "answers", list))
  docs = _docs(where, _field(where, record, "docs", list), len(answers))
  docs = docs[:passages] if passages else docs
  dataset = _optional(where, record, "dataset")
  task = find_task(where, task or _optional(where, record, "task"), dataset)
  computed = bool(answers) and not all(doc.answers_found for doc in docs)
  if computed:
    docs = support.found(
      question, task, answers, docs, verifier, confirm=confirm
    )
  example = Example(
    id=_id(where, record),
    task=task,
    question=question,
    docs=docs,
    answers=answers,
    answerable=support.answerable(docs),
    dataset=dataset,
  )
  return Parsed(example=example, computed=computed)


def _id(where: str, record: dict[str, Any]) -> str:
  """The record's id; without one, a digest of what it asks and shows."""
  value = record.get("id")
  if value is None:
    shown = json.dumps(
      [record["question"], record["docs"]], sort_keys=True, default=str
    )
    return hashlib.sha256(shown.encode()).hexdigest()[:16]
  if type(value) not in (str, int):
    raise UserError(f"{where}: 'id' must be a string, not {_kind(value)}.")
  return str(value)


def _answers(where: str, answers: list[Any]) -> tuple[tuple[str, ...], ...]:
  for number, aliases in enumerate(answers, start=1):
    if (
      type(aliases) is not list
      or not aliases
      or any(type(alias) is not str for alias in aliases)
    ):
      raise UserError(
        f"{where}: entry {number} of 'answers' must be a list of strings, the"
        " ways to write one answer."
      )
  return tuple(tuple(aliases) for aliases in answers)


def _docs(where: str, docs: list[Any], golds: int) -> tuple[Doc, ...]:
  if not docs:
    raise UserError(
      f"{where} has no docs: every record needs at least one passage."
    )
  out = []
  for number, doc in enumerate(docs, start=1):
    at = f"{where}, doc {number}"
    if type(doc) is not dict:
      raise UserError(f"{at} must be an object, not {_kind(doc)}.")
    bits = doc.get("answers_found")
    if bits is not None and (
      type(bits) is not list
      or len(bits) != golds
      or any(bit not in (0, 1) for bit in bits)
    ):
      raise UserError(
        f"{at}: 'answers_found' must hold one 0 or 1 for each of the {golds}"
        f" answers, not {bits!r}."
      )
    out.append(
      Doc(
        title=_field(at, doc, "title", str),
        text=_field(at, doc, "text", str),
        answers_found=tuple(int(bit) for bit in bits or ()),
      )
    )
  return tuple(out)
