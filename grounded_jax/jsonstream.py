"""JSON files read one record at a time, whatever their form and size.

A file is JSON lines (or objects in a row), a list of records, an object with
such a list under "data", or one record.  Only the record at hand and a block
of text are in memory.  Standard library only: files written by Python may hold
NaN, which stricter incremental parsers refuse.
"""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from grounded_jax.records import UserError

_BLOCK = 1 << 16  # characters
_LITERAL = 16  # characters: no number's start, word or escape is longer
_SPACE = re.compile(r"[ \t\r\n]*")


def records(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  """Yields (where, value) for each record of a file, in order.

  Raises:
    UserError: names the file and line of what is not JSON; or the file holds
      neither records nor a list of them.
    UnicodeDecodeError: it is not UTF-8.
  """
  with path.open(encoding="utf-8-sig", newline="") as file:
    reader = _Reader(path, file)
    first = True
    while char := reader.peek():
      if char == "[" and first:
        yield from _numbered(path, reader.items())
        reader.end()
      elif char == "{" and first:
        yield from _first_object(path, reader)
      else:
        line = reader.line
        value = reader.value(whole=True)
        yield f"{path} line {line}", _record(path, value, first)
      first = False


def _record(path: pathlib.Path, value: Any, first: bool) -> Any:
  if first and type(value) is not dict:
    raise _no_list(path)
  return value


def _first_object(
  path: pathlib.Path, reader: "_Reader"
) -> Iterator[tuple[str, Any]]:
  """The records under "data", or the object itself where it has none."""
  line, fields, found = reader.line, {}, False
  for name in reader.members():
    listed = name == "data" and "question" not in fields
    if listed and reader.peek() == "[":
      found = True
      yield from _numbered(path, reader.items())
    else:
      fields[name] = reader.value()
  if found:
    reader.end()
  elif "data" in fields and "question" not in fields:
    raise _no_list(path)
  else:
    yield f"{path} line {line}", fields


def _no_list(path: pathlib.Path) -> UserError:
  return UserError(f'{path} must hold a list of records or {{"data": [...]}}.')


def _numbered(
  path: pathlib.Path, values: Iterator[Any]
) -> Iterator[tuple[str, Any]]:
  for number, value in enumerate(values, start=1):
    yield f"{path} record {number}", value


class _Reader:
  """A place in a JSON text of which only a window is held."""

  def __init__(self, path: pathlib.Path, file: Any):
    self._path = path
    self._file = file
    self._decoder = json.JSONDecoder()
    self._text, self._at, self._done = "", 0, False
    self.line = 1  # of the place

  def peek(self) -> str:
    """The next character that is no white space; "" at the end."""
    while True:
      self._move(_SPACE.match(self._text, self._at).end())
      if self._at < len(self._text):
        return self._text[self._at]
      if not self._more():
        return ""

  def value(self, *, whole: bool = False) -> Any:
    """The JSON value that begins here.

    What is not JSON is named by its own line, or by the line where the value
    begins if it is a `whole` record: one whose end is missing breaks later.
    """
    self.peek()
    while True:
      try:
        value, end = self._decoder.raw_decode(self._text, self._at)
      except json.JSONDecodeError as error:
        if self._cut(error) and self._more():
          continue
        at = self._at if whole and self._lines(error.pos) else error.pos
        raise self._broken(error.msg, at) from None
      except (RecursionError, ValueError) as error:  # too deep, many digits
        raise UserError(
          f"{self._path} line {self.line} cannot be read as JSON: {error}."
        ) from None
      # "12" at the end of the window may be the start of "123".
      if end == len(self._text) and self._more():
        continue
      self._move(end)
      return value

  def items(self) -> Iterator[Any]:
    """Yields the values of the list that begins here."""
    self._take("[")
    if self.peek() == "]":
      self._take("]")
      return
    while True:
      yield self.value()
      if self.peek() == "]":
        self._take("]")
        return
      self._take(",")

  def members(self) -> Iterator[str]:
    """Yields each name of the object that begins here, placed at its value.

    The caller reads the value before it asks for the next name.
    """
    self._take("{")
    if self.peek() == "}":
      self._take("}")
      return
    while True:
      if self.peek() != '"':
        raise self._broken("Expecting a name in double quotes", self._at)
      name = self.value()
      self._take(":")
      yield name
      if self.peek() == "}":
        self._take("}")
        return
      self._take(",")

  def end(self) -> None:
    """Refuses anything but white space after the one value of a file."""
    if self.peek():
      raise self._broken("Extra data", self._at)

  def _take(self, wanted: str) -> None:
    if self.peek() != wanted:
      raise self._broken(f"Expecting {wanted!r}", self._at)
    self._move(self._at + 1)

  def _move(self, end: int) -> None:
    self.line += self._text.count("\n", self._at, end)
    self._at = end

  def _more(self) -> bool:
    """Widens the window by at least itself; False at the file's end."""
    if self._done:
      return False
    size = max(_BLOCK, len(self._text) - self._at)
    block = self._file.read(size)
    if not block:
      self._done = True
      return False
    self._text, self._at = self._text[self._at :] + block, 0
    return True

  def _lines(self, at: int) -> int:
    return self._text.count("\n", self._at, at)

  def _cut(self, error: json.JSONDecodeError) -> bool:
    """Whether the window's end may be all that is wrong with a value."""
    near = error.pos >= len(self._text) - _LITERAL
    return near or error.msg.startswith("Unterminated string")

  def _broken(self, message: str, at: int) -> UserError:
    line = self.line + self._lines(at)
    column = at - self._text.rfind("\n", 0, at)
    return UserError(
      f"{self._path} line {line} is not JSON: {message} at column {column}."
    )
