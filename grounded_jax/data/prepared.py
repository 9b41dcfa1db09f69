"""Writes prepared records, and counts what is in them."""

import collections
import hashlib
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from grounded_jax import log, text
from grounded_jax.data import prepare, shortcuts, splits, support
from grounded_jax.data.pairs import Pair, Row
from grounded_jax.records import UserError

STATISTICS = "statistics.json"
_UNFINISHED = ".unfinished"  # until there are statistics
FILES = ("train_stage1", "train_stage2", "dev", "test")
PLACE = "place of best overlap"  # the cue that a fixed order would leave
TOGETHER = "all together"  # below 0.5 it has learned nothing


def run(
  options: prepare.Options,
  folder: pathlib.Path,
  verifier: support.Verifier | None,
) -> dict[str, Any]:
  """Prepares records in `folder`; returns the statistics that lie there too.

  Args:
    options: what to make.
    folder: a new directory, or one of an earlier preparation.
    verifier: asked whether a passage holds an answer; None = words decide.
  """
  _claim(folder, (*options.corpus, *options.questions, *options.held_out))
  made = prepare.make(options, folder, verifier)
  rows = _rows(options, made)
  for name, found in rows.items():
    _write(folder / f"{name}.jsonl", (row.record(made.corpus) for row in found))
  result = _statistics(made, rows)
  result["options"] = vars(options)
  result["warnings"] = list(_warnings(result))
  log.write_json(folder / STATISTICS, result)
  (folder / _UNFINISHED).unlink(missing_ok=True)
  made.corpus.close()
  return result


def _claim(folder: pathlib.Path, inputs: Sequence[str]) -> None:
  """Makes the folder, or refuses one that holds something else."""
  if folder.is_file():
    raise UserError(f"--output={folder} is a file: name a directory.")
  for name in inputs:
    if pathlib.Path(name).resolve().parent == folder.resolve():
      raise UserError(
        f"--output={folder} holds the input {name}: name another directory."
      )
  names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
  if names and not names & {STATISTICS, _UNFINISHED}:
    raise UserError(
      f"--output={folder} holds files that were not prepared: name a new"
      " directory."
    )
  folder.mkdir(parents=True, exist_ok=True)
  (folder / _UNFINISHED).touch()


def _rows(
  options: prepare.Options, made: prepare.Prepared
) -> dict[str, list[Row]]:
  """The records of each of FILES, in an order that is drawn."""
  row = lambda pair, yes: Row(pair=pair, answerable=yes, seed=options.seed)
  even = lambda pairs: [
    row(pair, yes)
    for pair in pairs
    if pair.unanswerable
    for yes in (True, False)
  ]
  found = {
    "train_stage1": [row(pair, True) for pair in made.pairs["train"]],
    "train_stage2": even(made.pairs["train"]),
    "dev": even(made.pairs["dev"]),
    "test": even(made.pairs["test"]),
  }
  rank = lambda r: hashlib.sha256(f"{options.seed}\x1f{r.id}".encode()).digest()
  return {name: sorted(rows, key=rank) for name, rows in found.items()}


def _write(path: pathlib.Path, records: Iterable[Mapping[str, Any]]) -> None:
  part = path.with_name(path.name + ".part")
  with part.open("w", encoding="utf-8") as file:
    for record in records:
      file.write(log.dumps(record) + "\n")
  part.replace(path)


def _statistics(
  made: prepare.Prepared, rows: Mapping[str, Sequence[Row]]
) -> dict[str, Any]:
  every = [pair for pairs in made.pairs.values() for pair in pairs]
  even = [row for name in FILES[1:] for row in rows[name]]
  return {
    "passages": {**made.read, "kept": len(made.corpus)},
    "questions": {
      "read": made.questions,
      "kept": len({pair.key for pair in every}),
      "dropped": made.dropped,
      "only in stage 1": len(
        {pair.key for pair in every} - {row.pair.key for row in even}
      ),
    },
    "files": {name: _counts(found) for name, found in rows.items()},
    "auc": {
      "even records": _aucs(even),
      "plain recombination": _plain(every),
    },
    "shared": _shared(made, rows),
  }


def _counts(rows: Sequence[Row]) -> dict[str, Any]:
  """What one file holds."""
  lengths, supported, golds = [], [], []
  places, patterns = collections.Counter(), collections.Counter()
  for row in rows:
    c = row.pair.candidates
    chosen = row.places
    bits = c.bits[chosen]
    lengths.extend(c.features[chosen, shortcuts.FEATURES.index("words")])
    held = np.flatnonzero(bits.any(1))
    places.update(int(place) + 1 for place in held)
    if row.answerable:
      supported.append(int(bits.any(0).sum()))
      golds.append(len(held))
    patterns[f"{int(bits.any(0).sum())} of {bits.shape[1]}"] += 1
  mean = lambda values: float(np.mean(values)) if len(values) else math.nan
  tasks = collections.Counter(
    row.pair.candidates.question.example.task for row in rows
  )
  size = len(rows[0].places) if rows else 0
  return {
    "records": len(rows),
    "questions": len({row.pair.key for row in rows}),
    "answerable": mean([row.answerable for row in rows]),
    "tasks": dict(sorted(tasks.items())),
    "answers held": mean(supported),  # of answerable records
    "gold passages": mean(golds),
    "words per passage": mean(lengths),
    "longest passage": int(max(lengths, default=0)),
    "patterns": dict(sorted(patterns.items())),
    "gold places": [places[place + 1] for place in range(size)],
    "auc": _aucs(rows),
  }


def _aucs(rows: Sequence[Row]) -> dict[str, float]:
  """How well each cue tells the answerable records of some."""
  ordered = sorted(rows, key=lambda row: (row.pair.key, row.pair.number))
  yes = [row for row in ordered if row.answerable]
  no = [row for row in ordered if not row.answerable]
  if not (yes and no):
    return {}
  cues = [
    np.concatenate([row.pair.cues([row.places]) for row in half])
    for half in (yes, no)
  ]
  places = [np.array([_place(row) for row in half]) for half in (yes, no)]
  return _named(*cues, [row.pair for row in yes]) | {
    PLACE: shortcuts.auc(*places)
  }


def _place(row: Row) -> float:
  """Where the passage stands that shares most words with the question."""
  overlap = shortcuts.FEATURES.index("overlap")
  return float(np.argmax(row.pair.candidates.features[row.places, overlap]))


def _named(
  yes: np.ndarray, no: np.ndarray, pairs: Sequence[Pair]
) -> dict[str, float]:
  """The AUC of every cue, and of all of them together."""
  values = [shortcuts.auc(yes[:, c], no[:, c]) for c in range(yes.shape[1])]
  numbers = {key: n for n, key in enumerate(sorted({p.key for p in pairs}))}
  question = np.array([numbers[pair.key] for pair in pairs])
  return dict(zip(shortcuts.CUES, values, strict=True)) | {
    TOGETHER: shortcuts.together(yes, no, question)
  }


def _plain(pairs: Sequence[Pair]) -> dict[str, float]:
  """The same of plain recombination: what would be without matching."""
  yes = np.concatenate([pair.cues([pair.answerable]) for pair in pairs])
  no = np.concatenate([pair.cues([pair.plain]) for pair in pairs])
  return _named(yes, no, pairs)


def _shared(
  made: prepare.Prepared, rows: Mapping[str, Sequence[Row]]
) -> dict[str, dict[str, int]]:
  """What two splits have in common; held-out files count as one."""
  sides = {}
  for name in FILES:
    side = sides.setdefault(name.partition("_")[0], _nothing())
    for row in rows[name]:
      c = row.pair.candidates
      side["questions"].add(text.normalize(c.question.example.question))
      side["answers"] |= prepare.golds(c.question)
      side["passages"] |= {c.numbers[place] for place in row.places}
      side["gold passages"] |= set(row.pair.golds)
  if made.held_out:
    side = sides.setdefault("held out", _nothing())
    side["gold passages"] |= prepare.guards(made.corpus, made.held_out)
    for question in made.held_out:
      side["questions"].add(text.normalize(question.example.question))
      side["answers"] |= prepare.golds(question)
      found = map(made.corpus.find, question.labels)
      side["passages"] |= {number for number in found if number is not None}
  return splits.shared(sides)


def _nothing() -> dict[str, set]:
  return {
    kind: set()
    for kind in ("questions", "answers", "gold passages", "passages")
  }


def _warnings(result: Mapping[str, Any]) -> Iterator[str]:
  """A sentence for each file that a policy could learn without reading."""
  advice = "give more passages of each question's subject"
  if result["options"]["plain"]:
    advice = "leave out --plain"
  for name in FILES:
    found = result["files"][name]
    if not found["records"]:
      yield f"{name} is empty: give more questions, or other --splits."
      continue
    golds = found["gold places"]
    expected = sum(golds) / len(golds)
    chi2 = sum((n - expected) ** 2 for n in golds) / expected
    free = len(golds) - 1
    if chi2 > free + 4 * math.sqrt(2 * free):  # four deviations
      yield f"{name}: gold passages stand at some places more often: {golds}."
    chance = shortcuts.chance(max(found["records"] // 2, 1))
    far = max(shortcuts.WARN - 0.5, chance)
    cues = [
      f"{cue} (AUC {value:.2f})"
      for cue, value in found["auc"].items()
      if (value - 0.5 if cue == TOGETHER else abs(value - 0.5)) > far
    ]
    if cues:
      yield (
        f"{name}: without reading, answerable records can be told by"
        f" {', '.join(cues)}: {advice}."
      )
