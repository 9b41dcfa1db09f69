"""A corpus of passages: cut to length, each once, on disk.

Passages stand in the order of their digests, which is that of no input: what
is made from a corpus does not depend on the order of its lines.  In memory are
a digest and a place of each (24 bytes), never the texts.
"""

import array
import hashlib
import json
import math
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int64, UInt64

from grounded_jax import jsonstream, log, text
from grounded_jax.records import Doc, UserError, absence

_WORD = re.compile(r"\w+")
_TALK = 100_000  # passages between two lines of progress


def words(written: str) -> list[str]:
  """The words of a text in lower case, for retrieval and for overlap."""
  return _WORD.findall(written.lower())


def digest(doc: Doc) -> int:
  """64 bits of a passage's normal form: equal ones are the same passage."""
  return _hash(f"{text.normalize(doc.title)}\x1f{text.normalize(doc.text)}")


def _hash(written: str) -> int:
  raw = hashlib.blake2b(written.encode(), digest_size=8).digest()
  return int.from_bytes(raw, "big")


class Corpus:
  """Passages by their number, read from a file of JSON lines."""

  def __init__(
    self,
    path: pathlib.Path,
    starts: Int64[np.ndarray, " D"],
    digests: UInt64[np.ndarray, " D"],
  ):
    self.path = path
    self._starts = starts  # bytes
    self._digests = digests  # ascending
    self._file = path.open("rb")

  def __len__(self) -> int:
    return len(self._starts)

  def __getitem__(self, number: int) -> Doc:
    return _read(self._file, int(self._starts[number]))

  def __iter__(self) -> Iterator[Doc]:
    return (self[number] for number in range(len(self)))

  def find(self, wanted: int) -> int | None:
    """The number of the passage with a digest; None = there is none."""
    place = int(np.searchsorted(self._digests, np.uint64(wanted)))
    found = place < len(self) and int(self._digests[place]) == wanted
    return place if found else None

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def _read(file: BinaryIO, start: int) -> Doc:
  file.seek(start)
  return Doc(**json.loads(file.readline()))


def build(
  names: Sequence[str], path: pathlib.Path, length: int
) -> tuple[Corpus, dict[str, int]]:
  """Writes the passages of files to `path`; also counts what was read.

  Args:
    names: files of passages or of records, whose docs are passages.
    path: the file of JSON lines that the corpus is read from.
    length: words of a passage; texts of more than one and a half times as many
      are cut into even pieces.  0 = no text is cut.

  Raises:
    UserError: names the file and line of what is no passage.
  """
  starts, digests, exact = (array.array(code) for code in "qQQ")
  counts = {"read": 0, "empty": 0, "cut": 0, "pieces": 0, "repeated": 0}
  with tempfile.TemporaryFile(dir=path.parent) as spool:
    for doc in _counted(_docs(names), counts):
      pieces = cut(doc.text, length)
      counts["cut"] += len(pieces) > 1
      for piece in pieces:
        part = Doc(title=doc.title, text=piece)
        starts.append(spool.tell())
        digests.append(digest(part))
        exact.append(_hash(f"{part.title}\x1f{part.text}"))
        _write(spool, part)
    counts["pieces"] = len(starts)
    if not starts:
      raise UserError(f"The corpus {','.join(names)} holds no passage.")
    keys = np.frombuffer(digests, np.uint64)
    order = np.lexsort((np.frombuffer(exact, np.uint64), keys))
    first = np.append(True, np.diff(keys[order]) > 0)
    order = order[first]
    counts["repeated"] = len(starts) - len(order)
    places = np.empty(len(order), np.int64)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
      for number, old in enumerate(order):
        places[number] = file.tell()
        _write(file, _read(spool, starts[old]))
  part.replace(path)
  return Corpus(path, places, keys[order]), counts


def _write(file: BinaryIO, doc: Doc) -> None:
  row = {"title": doc.title, "text": doc.text}
  file.write(log.dumps(row).encode() + b"\n")


def cut(written: str, length: int) -> list[str]:
  """The text in even pieces of about `length` words; few words stay whole."""
  parts = written.split()
  pieces = max(1, math.ceil(len(parts) / length - 0.5)) if length else 1
  if pieces == 1:
    return [written.strip()]
  ends = [len(parts) * i // pieces for i in range(pieces + 1)]
  return [
    " ".join(parts[low:high]) for low, high in zip(ends, ends[1:], strict=False)
  ]


def _counted(docs: Iterable[Doc], counts: dict[str, int]) -> Iterator[Doc]:
  """The docs that hold a word; the others are counted alone."""
  for doc in docs:
    counts["read"] += 1
    if counts["read"] % _TALK == 0:
      log.say(f"read {counts['read']:,} passages")
    if text.normalize(doc.text):
      yield doc
    else:
      counts["empty"] += 1


def rows(what: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (where, object) of a file of the command line, one at a time.

  Args:
    what: the flag that names it.
    name: of the file.

  Raises:
    UserError: it is not there, or holds something else.
  """
  path = pathlib.Path(name)
  if not path.is_file():
    raise UserError(f"--{what}={name}: {path} {absence(path)}.")
  try:
    for where, row in jsonstream.records(path):
      if type(row) is not dict:
        raise UserError(f"{where} is not an object.")
      try:
        json.dumps(row, ensure_ascii=False).encode()
      except UnicodeEncodeError:
        raise UserError(
          f"{where} holds half of a surrogate pair, which is no character."
        ) from None
      yield where, row
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8 text ({error.reason}).") from None


def _docs(names: Sequence[str]) -> Iterator[Doc]:
  for name in names:
    for where, row in rows("corpus", name):
      if "docs" not in row:
        yield doc_of(where, row)
        continue
      if type(row["docs"]) is not list:
        raise UserError(f"{where}: 'docs' must be a list of passages.")
      for number, doc in enumerate(row["docs"], start=1):
        yield doc_of(f"{where}, doc {number}", doc)


def doc_of(where: str, row: Any) -> Doc:
  """The passage that a row states; its title may be missing."""
  if type(row) is not dict or type(row.get("text")) is not str:
    raise UserError(f"{where}: a passage needs 'text', and may have 'title'.")
  title = row.get("title") or ""
  if type(title) is not str:
    raise UserError(f"{where}: 'title' must be text.")
  return Doc(title=title.strip(), text=row["text"])
