"""Record files to `Example`s: JSON lines, a JSON list, or {"data": [...]}.

The format is Trust-Score's (design section 4).  Every mistake names the file
and the line, or the record's number where a file is one JSON value.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from grounded_jax.data import support
from grounded_jax.records import (
  Doc,
  Example,
  UserError,
  absence,
  find_task,
  parse_json,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parsed:
  """An example, and whether its answers_found had to be computed."""

  example: Example
  computed: bool


def rows(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (where, record) for every record of a file.

  Raises:
    UserError: the file is missing, not text or not JSON.
  """
  if not path.is_file():
    raise UserError(
      f"The record file {path} {absence(path)}: give JSON lines of questions,"
      " answers and docs with data.train.path (or an evaluation's source.path)."
    )
  try:
    content = path.read_text("utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8 text ({error.reason}).") from None
  lines = [line for line in content.split("\n") if line.strip()]
  whole = content.lstrip().startswith("[")
  if lines and path.suffix != ".jsonl":  # one object, or one over many lines
    whole |= len(lines) == 1 or not lines[0].rstrip().endswith("}")
  records = _whole(path, content) if whole else _lines(path, content)
  for where, record in records:
    if type(record) is not dict:
      raise UserError(
        f"{where}: a record must be an object with question, answers and docs,"
        f" not {_kind(record)}."
      )
    try:
      json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
      raise UserError(
        f"{where} holds half of a surrogate pair (such as \\ud800), which is no"
        " character: leave it out."
      ) from None
    yield where, record


def _lines(path: pathlib.Path, content: str) -> Iterator[tuple[str, Any]]:
  for number, line in enumerate(content.split("\n"), start=1):
    if line.strip():
      yield f"{path} line {number}", parse_json(line, path, number)


def _whole(path: pathlib.Path, content: str) -> Iterator[tuple[str, Any]]:
  value = parse_json(content, path)
  if type(value) is dict and "data" in value and "question" not in value:
    value = value["data"]
  if type(value) is dict:
    value = [value]
  if type(value) is not list:
    raise UserError(
      f"{path} must hold a list of records, or an object with a list under"
      f' "data", not {_kind(value)}.'
    )
  for number, record in enumerate(value, start=1):
    yield f"{path} record {number}", record


def _kind(value: Any) -> str:
  return {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
  }[type(value)]


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
    shown = json.dumps([record["question"], record["docs"]], sort_keys=True)
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
