"""Where examples come from and which of them are used.

A source is a list of record files or a split of the embedded world.  Choices
are functions of the source's seed and the examples' ids alone: they do not
depend on the order of the records.
"""

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from grounded_jax import config
from grounded_jax.data import columns, parsing, support
from grounded_jax.data import pool as pool_lib
from grounded_jax.records import TASKS, Example, UserError

_WORLD_SPLITS = ("train", "dev", "test")
# How many examples the endless world stands for when no limit is set.
_WORLD_SIZE = 3000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
  """What a source holds: counts before and after the choice of records."""

  read: int  # records in the files
  records: int  # examples kept
  answerable: float  # share of those kept
  golds: float  # mean number of gold answers of those kept
  most_golds: int  # the largest number of them
  passages: float  # mean number of passages of those kept
  tasks: dict[str, int]  # kept, by task
  datasets: dict[str, int]  # kept, by dataset
  dropped: dict[str, int]  # why -> how many
  # Examples read whose answers_found was missing.
  computed: int


def load(
  source: config.Source,
  passages: int,
  verifier: support.Verifier | None = None,
  confirm: bool = True,
) -> tuple[Sequence[Example], Statistics]:
  """The examples of a source, each with its first `passages` docs.

  More than `source.in_memory` of them are `pool.Kept`: read when asked for.

  Args:
    source: where they are and which are chosen.
    passages: docs shown of each.
    verifier: asked where answers_found is missing.
    confirm: whether also about answers that are not claims.

  Raises:
    UserError: no path, a file that is missing or malformed, or nothing left
      after the choice of records.
  """
  pool, computed = _read(source, passages, verifier, confirm)
  kept, dropped = _chosen(pool, source)
  if not len(kept):
    raise UserError(
      f"The source {source.path} gives no example: {len(pool)} read, dropped:"
      f" {dropped or 'none'}."
    )
  counts = statistics(pool, kept, dropped, computed)
  if pool.stored and len(kept) > source.in_memory:
    return pool_lib.Kept(pool, kept), counts
  return tuple(pool[i] for i in kept.tolist()), counts


def _read(
  source: config.Source,
  passages: int,
  verifier: support.Verifier | None,
  confirm: bool,
) -> tuple[pool_lib.Pool, int]:
  """All examples of a source, and how many had no answers_found."""
  if not source.path:
    raise UserError(
      "No record file is set: give one with --config.data.train.path=FILE."
    )
  if source.path.startswith("world:"):
    pool = pool_lib.Pool(source.seed, in_memory=sys.maxsize)
    for example in _world(source):
      pool.add(_shown(example, passages))
    return pool, 0
  pool, computed = pool_lib.Pool(source.seed, source.in_memory), 0
  names = config.pairs("columns", source.columns)
  for location in filter(None, map(str.strip, source.path.split(","))):
    dataset = columns.dataset_of(location)
    for where, row in parsing.rows(location, streaming=source.streaming):
      parsed = parsing.parse(
        where,
        columns.record(
          where, row, names=names, dataset=dataset, task=source.task
        ),
        task=source.task,
        passages=passages,
        verifier=verifier,
        confirm=confirm,
      )
      pool.add(parsed.example)
      computed += parsed.computed
  pool.distinguish()
  return pool, computed


def _chosen(
  pool: pool_lib.Pool, source: config.Source
) -> tuple[np.ndarray, dict[str, int]]:
  """The numbers of a source's chosen examples, and what was dropped."""
  among, left = np.arange(len(pool)), {}
  if source.mix:
    weights = config.mix(source)
    missing = [name for name in weights if name not in pool.datasets]
    if missing:
      raise UserError(
        f"mix={source.mix!r}: {source.path} has no dataset {missing[0]!r}; it"
        f" has: {', '.join(map(repr, sorted(pool.datasets)))}."
      )
    named = [name in weights for name in pool.datasets]
    among = np.flatnonzero(np.array(named)[pool.dataset])
    left = {"not in the mix": len(pool) - len(among)}
  kept, dropped = choose(
    pool.answerable[among],
    _alphabetical(pool)[among],
    pool.rank[among],
    answerable=source.answerable,
    balance=source.balance,
    limit=source.limit,
  )
  return among[kept], {k: n for k, n in (left | dropped).items() if n}


def _alphabetical(pool: pool_lib.Pool) -> np.ndarray:
  """The place of each example's dataset among their sorted names."""
  order = np.argsort(np.argsort(np.array(pool.datasets, object)))
  return order[pool.dataset] if len(pool) else pool.dataset


def select(
  examples: Sequence[Example],
  *,
  answerable: str = "any",
  balance: bool = False,
  limit: int = 0,
  seed: int = 0,
) -> tuple[tuple[Example, ...], dict[str, int]]:
  """The chosen examples in their order, and how many were dropped and why.

  Args:
    examples: the pool; ids differ.
    answerable: any, only (answerable ones), even (half and half).
    balance: the same number from every dataset.
    limit: kept at most, evenly from what `even` and `balance` separate.
    seed: of the choice.
  """
  kept, dropped = choose(
    np.array([e.answerable for e in examples], bool),
    np.unique([e.dataset for e in examples], return_inverse=True)[1],
    np.array([pool_lib.rank(seed, e.id) for e in examples], np.uint64),
    answerable=answerable,
    balance=balance,
    limit=limit,
  )
  return tuple(examples[i] for i in kept.tolist()), dropped


def choose(
  flags: np.ndarray,
  datasets: np.ndarray,
  ranks: np.ndarray,
  *,
  answerable: str,
  balance: bool,
  limit: int,
) -> tuple[np.ndarray, dict[str, int]]:
  """As `select`, of examples known by three numbers each.

  Args:
    flags: whether each is answerable.
    datasets: numbers of their datasets, in the order of the names.
    ranks: the first in this order are chosen.
    answerable: any, only, even.
    balance: the same number from every dataset.
    limit: kept at most.
  """
  dropped = {}
  pool = np.arange(len(flags))
  if answerable == "only":
    pool = np.flatnonzero(flags)
    dropped["unanswerable"] = len(flags) - len(pool)
  groups = [pool]
  if balance:
    groups = [pool[datasets[pool] == i] for i in np.unique(datasets[pool])]
  if answerable == "even":
    groups = [g[flags[g] == half] for g in groups for half in (True, False)]
  sizes = [len(group) for group in groups]
  even = answerable == "even" or balance
  chosen = []
  for group, quota in zip(groups, _quotas(sizes, limit, even), strict=True):
    first = np.argsort(ranks[group], kind="stable")[:quota]
    chosen.append(group[first] if quota < len(group) else group)
  kept = np.sort(np.concatenate([*chosen, np.zeros(0, int)])).astype(int)
  fair = sum(_quotas(sizes, 0, even))
  dropped["to keep the halves or datasets even"] = len(pool) - fair
  dropped["over the limit"] = fair - len(kept)
  return kept, {why: n for why, n in dropped.items() if n}


def statistics(
  pool: pool_lib.Pool, kept: np.ndarray, dropped: dict[str, int], computed: int
) -> Statistics:
  """The counts of the examples `kept`, numbers of those that were read."""
  count = lambda names, places: dict(
    sorted(
      (names[i], n) for i, n in enumerate(np.bincount(places).tolist()) if n
    )
  )
  golds = pool.golds[kept]
  return Statistics(
    read=len(pool),
    records=len(kept),
    answerable=float(pool.answerable[kept].mean()),
    golds=float(golds.mean()),
    most_golds=int(golds.max()),
    passages=float(pool.passages[kept].mean()),
    tasks=count(TASKS, pool.task[kept]),
    datasets=count(pool.datasets, pool.dataset[kept]),
    dropped=dropped,
    computed=computed,
  )


def _quotas(sizes: Sequence[int], limit: int, even: bool) -> list[int]:
  """How many to take from each group; an odd limit favours the first ones."""
  if not sizes:
    return []
  if not even:  # one group
    return [min(sizes[0], limit or sizes[0])]
  share = min(sizes)
  if limit >= share * len(sizes) or not limit:
    return [share] * len(sizes)
  base, rest = divmod(limit, len(sizes))
  return [base + (i < rest) for i in range(len(sizes))]


def _shown(example: Example, passages: int) -> Example:
  docs = example.docs[:passages]
  return dataclasses.replace(
    example, docs=docs, answerable=support.answerable(docs)
  )


def _world(source: config.Source) -> list[Example]:
  from grounded_jax.data import world  # record files need no world

  split = source.path.partition(":")[2]
  if split not in _WORLD_SPLITS:
    raise UserError(
      f"The embedded world has no split {split!r}; it has:"
      f" {', '.join(_WORLD_SPLITS)}."
    )
  # Tasks come in turn and answerable with unanswerable ones in pairs, so a
  # choice is a known share, and the limit cuts nothing but the last few.
  share = (3 if source.task else 1) * (2 if source.answerable == "only" else 1)
  size = source.limit or _WORLD_SIZE
  if share > 1:
    size = share * (size + 2)
  drawn = world.examples(source.seed, split, size)
  return [e for e in drawn if source.task in ("", e.task)]
