"""Rows of any source, one at a time: JSON, parquet, Hugging Face datasets.

A location is a file (JSON lines, a JSON list, {"data": [...]}, parquet) or a
dataset, hf:NAME[:CONFIG][@SPLIT].  Only the row at hand and a block of the file
are in memory.
"""

import itertools
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from grounded_jax import jsonstream
from grounded_jax.records import UserError, absence, parse_json, reading

HUB = "hf:"
# Formats that `datasets` reads from files, which stand in place of a CONFIG.
_BUILDERS = ("csv", "json", "parquet", "text")
_BATCH = 64  # rows of a parquet file held at once
_NEEDS = "pip install 'grounded_jax[data]'"


def values(location: str, *, streaming: bool = False) -> Iterator[Any]:
  """Yields (where, value) for every row of a location, in order.

  Args:
    location: a file, or hf:NAME[:CONFIG][@SPLIT].
    streaming: a dataset's rows as they come, without a copy on this machine.

  Raises:
    UserError: it is missing or cannot be read; names the file and line.
  """
  if location.startswith(HUB):
    return _dataset(location, streaming)
  path = pathlib.Path(location)
  if not path.is_file():
    raise UserError(
      f"The record file {path} {absence(path)}: give JSON lines of questions,"
      " answers and docs with data.train.path (or an evaluation's source.path),"
      " or a dataset as hf:NAME, where NAME may be a directory."
    )
  if path.suffix == ".parquet":
    return _parquet(path)
  return _json(path)


def _json(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  """The records of a JSON file; of lines, each is JSON by itself."""
  if path.suffix == ".jsonl" and not _is_list(path):
    yield from _lines(path)
    return
  try:
    yield from jsonstream.records(path)
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8 text ({error.reason}).") from None


def _is_list(path: pathlib.Path) -> bool:
  with path.open("rb") as file:
    for line in file:
      if line := line.removeprefix(b"\xef\xbb\xbf").strip():
        return line.startswith(b"[")
  return False


def _lines(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  with path.open("rb") as file:
    for number, raw in enumerate(file, start=1):
      try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
      except UnicodeDecodeError as error:
        raise UserError(
          f"{path} is not UTF-8 text ({error.reason} in line {number})."
        ) from None
      if line.strip():
        value = parse_json(line.rstrip("\r\n"), path, number)
        yield f"{path} line {number}", value


def _parquet(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  try:
    from pyarrow import parquet  # an extra
  except ImportError:
    raise UserError(f"{path} is a parquet file: {_NEEDS} reads it.") from None
  with reading(f"The parquet file {path}", "make it again"):
    number = 0
    with parquet.ParquetFile(path) as file:
      for batch in file.iter_batches(batch_size=_BATCH):
        for row in batch.to_pylist():
          number += 1
          yield f"{path} row {number}", row


def _dataset(location: str, streaming: bool) -> Iterator[tuple[str, Any]]:
  name, split, first = _named(location)
  with reading(
    f"The dataset {location}",
    "check its name, configuration and split, and that the hub can be reached,"
    " or name a directory that holds it",
  ):
    found = _load(name, split, streaming)
    if first is not None:
      found = itertools.islice(found, first)
    for number, row in enumerate(found, start=1):
      yield f"{location} row {number}", row


def _named(location: str) -> tuple[list[str], str, int | None]:
  """NAME and CONFIG, the split if stated, and how many of its first rows."""
  rest, _, split = location.removeprefix(HUB).partition("@")
  match = re.fullmatch(r"([\w.-]*)(?:\[:(\d+)\])?", split)
  name = rest.split(":", 1)
  if not match or not all(name):
    raise UserError(
      f"{location} must be hf:NAME[:CONFIG][@SPLIT], like hf:org/name@train or"
      " hf:org/name:default@validation[:500]."
    )
  first = None if match[2] is None else int(match[2])
  return name, match[1], first


def _load(name: list[str], split: str, streaming: bool) -> Any:
  try:
    import datasets  # an extra, and seconds
  except ImportError:
    raise UserError(f"Datasets of Hugging Face need {_NEEDS}.") from None
  datasets.disable_progress_bars()
  path = pathlib.Path(name[0])
  saved = [path / file for file in ("state.json", "dataset_dict.json")]
  if any(file.is_file() for file in saved):  # by save_to_disk
    return _from_disk(name, split)
  split = split or "train"
  if name[0] in _BUILDERS and len(name) > 1:
    return datasets.load_dataset(
      name[0], data_files=name[1], split=split, streaming=streaming
    )
  return datasets.load_dataset(*name, split=split, streaming=streaming)


def _from_disk(name: list[str], split: str) -> Any:
  import datasets

  if len(name) > 1:
    raise UserError(
      f"hf:{':'.join(name)}: a dataset saved to disk has no configurations:"
      f" leave {name[1]!r} out."
    )
  found = datasets.load_from_disk(name[0])
  if isinstance(found, datasets.DatasetDict):
    return found[split or "train"]
  if split not in ("", str(found.split)):
    raise UserError(
      f"hf:{name[0]}@{split}: what is saved there is one dataset, not split:"
      f" leave @{split} out."
    )
  return found


def check_characters(where: str, row: Any) -> None:
  """Refuses a row with half of a surrogate pair, which no file can hold."""
  try:
    json.dumps(row, ensure_ascii=False, default=str).encode()
  except UnicodeEncodeError:
    raise UserError(
      f"{where} holds half of a surrogate pair (such as \\ud800), which is no"
      " character: leave it out."
    ) from None
