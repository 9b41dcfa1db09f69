"""Where examples come from and which of them are used.

A source is a list of record files or a split of the embedded world.  Choices
are functions of the source's seed and the examples' ids alone: they do not
depend on the order of the records.
"""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence

from grounded_jax import config
from grounded_jax.data import parsing, support
from grounded_jax.records import Example, UserError

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
) -> tuple[tuple[Example, ...], Statistics]:
  """The examples of a source, each with its first `passages` docs.

  Args:
    source: where they are and which are chosen.
    passages: docs shown of each.
    verifier: asked where answers_found is missing.
    confirm: whether also about answers that are not claims.

  Raises:
    UserError: no path, a file that is missing or malformed, or nothing left
      after the choice of records.
  """
  if not source.path:
    raise UserError(
      "No record file is set: give one with --config.data.train.path=FILE."
    )
  if source.path.startswith("world:"):
    pool, computed = [_shown(e, passages) for e in _world(source)], 0
  else:
    parsed = [
      parsing.parse(
        where,
        record,
        task=source.task,
        passages=passages,
        verifier=verifier,
        confirm=confirm,
      )
      for name in source.path.split(",")
      for where, record in parsing.rows(pathlib.Path(name.strip()))
    ]
    pool = _distinct([entry.example for entry in parsed])
    computed = sum(entry.computed for entry in parsed)
  kept, dropped = select(
    pool,
    answerable=source.answerable,
    balance=source.balance,
    limit=source.limit,
    seed=source.seed,
  )
  if not kept:
    raise UserError(
      f"The source {source.path} gives no example: {len(pool)} read, dropped:"
      f" {dropped or 'none'}."
    )
  return kept, statistics(kept, len(pool), dropped, computed)


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
  dropped = collections.Counter()
  pool = list(examples)
  if answerable == "only":
    pool = [example for example in pool if example.answerable]
    dropped["unanswerable"] = len(examples) - len(pool)
  datasets = sorted({e.dataset for e in pool}) if balance else [None]
  halves = (True, False) if answerable == "even" else (None,)
  groups = {(dataset, half): [] for dataset in datasets for half in halves}
  for example in pool:
    dataset = example.dataset if balance else None
    half = example.answerable if answerable == "even" else None
    groups[dataset, half].append(example)
  sizes = [len(group) for group in groups.values()]
  even = answerable == "even" or balance
  quotas = _quotas(sizes, limit, even)
  chosen = set()
  for group, quota in zip(groups.values(), quotas, strict=True):
    ranked = sorted(group, key=lambda example: _rank(seed, example.id))
    chosen.update(example.id for example in ranked[:quota])
  fair = sum(_quotas(sizes, 0, even))
  dropped["to keep the halves or datasets even"] = len(pool) - fair
  dropped["over the limit"] = fair - len(chosen)
  kept = tuple(example for example in pool if example.id in chosen)
  return kept, {why: n for why, n in dropped.items() if n}


def statistics(
  examples: Sequence[Example],
  read: int,
  dropped: dict[str, int],
  computed: int = 0,
) -> Statistics:
  """The counts of `examples`, which were chosen from `read` records."""
  n = max(len(examples), 1)
  count = lambda values: dict(sorted(collections.Counter(values).items()))
  return Statistics(
    read=read,
    records=len(examples),
    answerable=sum(e.answerable for e in examples) / n,
    golds=sum(len(e.answers) for e in examples) / n,
    passages=sum(len(e.docs) for e in examples) / n,
    tasks=count(e.task for e in examples),
    datasets=count(e.dataset for e in examples),
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


def _rank(seed: int, name: str) -> str:
  return hashlib.sha256(f"{seed}\x1f{name}".encode()).hexdigest()


def _distinct(examples: Sequence[Example]) -> list[Example]:
  """The examples with ids made distinct: the second "a" becomes "a#2".

  Where an example has that id itself, it becomes "a#3", and so on.
  """
  taken = {example.id for example in examples}
  seen = collections.Counter()
  out = []
  for example in examples:
    seen[example.id] += 1
    if seen[example.id] > 1:
      while (name := f"{example.id}#{seen[example.id]}") in taken:
        seen[example.id] += 1
      taken.add(name)
      example = dataclasses.replace(example, id=name)
    out.append(example)
  return out


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
