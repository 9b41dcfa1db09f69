"""Scored records as numbers: what stays in memory when their texts are gone.

A hundred thousand records take about 15 MB.
"""

import array
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt64

from grounded_jax import text
from grounded_jax.records import UserError
from grounded_jax.trust_score import summary

Formula = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """The records of one task, in their order."""

  sums: Float[np.ndarray, "N K"]  # what each adds to `summary.COLUMNS`
  ids: UInt64[np.ndarray, " N"]  # digest of the id; 0 = it states none
  questions: UInt64[np.ndarray, " N"]  # digest of the normalised question

  def take(self, order: Shaped[np.ndarray, " M"]) -> "Table":
    """The records at these places, or where a mask is true."""
    return Table(
      sums=self.sums[order],
      ids=self.ids[order],
      questions=self.questions[order],
    )

  def clusters(self) -> Int[np.ndarray, " N"]:
    """The number of each record's question, by first appearance.

    Records of one question (with other passages, say) are no independent
    draws.  A set that asks a single question has nothing else to draw: its
    records count as clusters then.
    """
    unique, first, inverse = np.unique(
      self.questions, return_index=True, return_inverse=True
    )
    if len(unique) == 1:
      return np.arange(len(self.questions))
    rank = np.empty(len(unique), int)
    rank[np.argsort(first)] = np.arange(len(unique))
    return rank[inverse]


Tables = dict[str, Table]


def collect(rows: Iterable[Mapping[str, Any]]) -> Tables:
  """The tables of rows (`trust_score.iterate`), by task; rows may stream."""
  columns: dict[str, tuple[array.array, array.array, array.array]] = {}
  for row in rows:
    if row["task"] not in columns:
      columns[row["task"]] = tuple(map(array.array, "dQQ"))
    sums, ids, questions = columns[row["task"]]
    sums.extend(summary.row_sums(row))
    ids.append(_digest(str(row["id"])) if row.get("id") is not None else 0)
    questions.append(_digest(text.normalize(row["question"])))
  return {
    task: Table(
      sums=np.array(sums, float).reshape(-1, len(summary.COLUMNS)),
      ids=np.array(ids, np.uint64),
      questions=np.array(questions, np.uint64),
    )
    for task, (sums, ids, questions) in columns.items()
  }


def _digest(value: str) -> int:
  """Eight bytes that stand for a text, never 0."""
  data = value.encode("utf-8", "surrogatepass")
  digest = hashlib.blake2b(data, digest_size=8).digest()
  return int.from_bytes(digest, "big") or 1


def scores(
  tables: Tables, formula: Formula = summary.metrics
) -> dict[str, dict[str, float]]:
  """A formula's values for each task, and under "macro" their plain mean."""
  out = {
    task: {
      name: float(value[0])
      for name, value in formula(table.sums.sum(0, keepdims=True)).items()
    }
    for task, table in tables.items()
  }
  names = next(iter(out.values()))
  out["macro"] = {
    name: sum(values[name] for values in out.values()) / len(out)
    for name in names
  }
  return out


def by_task(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
  """The metrics of each task's rows, and under "macro" their plain mean."""
  return scores(collect(rows))


def answerable(tables: Tables) -> Tables:
  """The answerable records alone; tasks without any are left out."""
  place = summary.COLUMNS.index("answerable")
  kept = {task: t.sums[:, place] > 0 for task, t in tables.items()}
  return {task: tables[task].take(x) for task, x in kept.items() if x.any()}


def aligned(ours: Tables, theirs: Tables) -> Tables:
  """`theirs` in the order of `ours`, record by record of one question.

  Records are paired by id where both state ids that are unique in their task,
  else by question where these are unique, else by their place.

  Raises:
    UserError: the two are not outputs for the same questions.
  """
  if set(ours) == set(theirs):
    pairs = {task: _aligned(ours[task], theirs[task]) for task in ours}
    if all(pairs.values()):
      return pairs
  sizes = [
    sum(len(t.ids) for t in tables.values()) for tables in (ours, theirs)
  ]
  raise UserError(
    f"The two outputs cannot be compared pair by pair: {sizes[0]} and"
    f" {sizes[1]} records do not hold the same questions; records are paired"
    " by id, or by question where each occurs once, or else in their order."
  )


def _aligned(ours: Table, theirs: Table) -> Table | None:
  for mine, other in (
    (ours.ids, theirs.ids),
    (ours.questions, theirs.questions),
  ):
    order = np.argsort(other)
    places = np.argsort(mine)
    keys = mine[places]
    if not np.array_equal(keys, other[order]) or not keys[0]:
      continue
    if (keys[1:] == keys[:-1]).any():  # not unique
      continue
    back = np.empty_like(places)
    back[places] = order
    moved = theirs.take(back)
    if np.array_equal(moved.questions, ours.questions):
      return moved
  same = np.array_equal(ours.questions, theirs.questions)
  return theirs if same else None
