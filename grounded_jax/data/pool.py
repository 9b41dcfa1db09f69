"""Examples as they are read: few stay in memory, many go to a temporary file.

Beside an example's text the pool holds a few numbers of it, so that a choice
among a million examples reads none of them again.
"""

import array
import collections
import dataclasses
import hashlib
import os
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from grounded_jax.records import TASKS, Example


def rank(seed: int, name: str) -> int:
  """Where an id stands in the order of a choice: 64 bits of its digest."""
  digest = hashlib.sha256(f"{seed}\x1f{name}".encode()).digest()
  return int.from_bytes(digest[:8], "big")


class Pool:
  """Grows by `add`; examples are had again by their number.

  The arrays of numbers are views: none may be held while the pool grows.
  """

  def __init__(self, seed: int, in_memory: int):
    """Ranks by `seed`; more than `in_memory` examples go to a file."""
    self._seed, self._most = seed, in_memory
    self._held: list[Example] = []
    self._file = None
    self._ends = array.array("q", [0])  # of each example in the file
    self._renamed: dict[int, str] = {}
    self._codes: dict[str, int] = {}  # of datasets
    self._rank, self._answerable = array.array("Q"), array.array("b")
    self._dataset, self._task = array.array("I"), array.array("b")
    self._golds, self._passages = array.array("I"), array.array("I")

  def __len__(self) -> int:
    return len(self._rank)

  @property
  def stored(self) -> bool:
    """Whether the examples are in a file."""
    return self._file is not None

  @property
  def rank(self) -> np.ndarray:
    return np.asarray(self._rank)

  @property
  def answerable(self) -> np.ndarray:
    return np.asarray(self._answerable).view(bool)

  @property
  def golds(self) -> np.ndarray:
    return np.asarray(self._golds)

  @property
  def passages(self) -> np.ndarray:
    return np.asarray(self._passages)

  @property
  def task(self) -> np.ndarray:
    """The place of each example's task in `TASKS`."""
    return np.asarray(self._task)

  @property
  def dataset(self) -> np.ndarray:
    """The place of each example's dataset in `datasets`."""
    return np.asarray(self._dataset)

  @property
  def datasets(self) -> list[str]:
    return list(self._codes)

  def add(self, example: Example) -> None:
    """Takes one more example; its id may be another's, see `distinguish`."""
    self._rank.append(rank(self._seed, example.id))
    self._answerable.append(example.answerable)
    code = self._codes.setdefault(example.dataset, len(self._codes))
    self._dataset.append(code)
    self._task.append(TASKS.index(example.task))
    self._golds.append(len(example.answers))
    self._passages.append(len(example.docs))
    if self._file is None and len(self._held) < self._most:
      self._held.append(example)
      return
    if self._file is None:
      self._file = tempfile.TemporaryFile(prefix="grounded_jax-")
      for held in self._held:
        self._write(held)
      self._held = []
    self._write(example)

  def distinguish(self) -> None:
    """Makes ids distinct: the second "a" becomes "a#2".

    Where an example has that id itself, it becomes "a#3", and so on.
    """
    if self._file is not None:
      self._file.flush()
    taken = np.sort(self.rank)
    repeated = np.unique(taken[1:][taken[1:] == taken[:-1]])
    added, seen = set(), collections.Counter()
    for number in np.flatnonzero(np.isin(self.rank, repeated)).tolist():
      name = self._read(number).id
      seen[name] += 1
      if seen[name] == 1:
        continue
      while True:
        value = rank(self._seed, other := f"{name}#{seen[name]}")
        at = np.searchsorted(taken, np.uint64(value))
        if value not in added and (at == len(taken) or taken[at] != value):
          break
        seen[name] += 1
      added.add(value)
      self._renamed[number], self._rank[number] = other, value

  def __getitem__(self, number: int) -> Example:
    example = self._read(number)
    name = self._renamed.get(number)
    return dataclasses.replace(example, id=name) if name else example

  def _write(self, example: Example) -> None:
    self._ends.append(
      self._ends[-1] + self._file.write(pickle.dumps(example, protocol=5))
    )

  def _read(self, number: int) -> Example:
    if self._file is None:
      return self._held[number]
    start, end = self._ends[number : number + 2]
    # No shared position: threads read at once.
    return pickle.loads(os.pread(self._file.fileno(), end - start, start))


class Kept(Sequence[Example]):
  """The chosen examples of a pool that is in a file."""

  def __init__(self, pool: Pool, numbers: np.ndarray):
    self._pool, self._numbers = pool, numbers
    self.answerable = pool.answerable[numbers]
    self.dataset = pool.dataset[numbers]  # places in `datasets`
    self.datasets = pool.datasets

  def __len__(self) -> int:
    return len(self._numbers)

  @overload
  def __getitem__(self, which: int) -> Example: ...

  @overload
  def __getitem__(self, which: slice) -> tuple[Example, ...]: ...

  def __getitem__(self, which):
    if isinstance(which, slice):
      return tuple(self._pool[i] for i in self._numbers[which].tolist())
    return self._pool[int(self._numbers[which])]

  def __iter__(self) -> Iterator[Example]:
    for number in self._numbers:
      yield self._pool[int(number)]
