"""Where a run's numbers go: metrics.jsonl, TensorBoard events, the terminal.

metrics.jsonl holds one object a step: `stage`, `step` (steps done within the
stage) and flat keys with numbers.
"""

import collections
import contextlib
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

import rich.columns
import rich.console
import rich.live
import rich.text

from grounded_jax.records import parse_json


def finite(value: Any) -> Any:
  """The value with NaN and infinities as None, which JSON can hold."""
  if isinstance(value, Mapping):
    return {key: finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [finite(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def dumps(value: Any, indent: int | None = None) -> str:
  """The value as standard JSON: no NaN, characters as they are."""
  return json.dumps(
    finite(value), indent=indent, ensure_ascii=False, allow_nan=False
  )


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes the value as one indented JSON file, whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(path.name + ".part")
  part.write_text(dumps(value, indent=2) + "\n", encoding="utf-8")
  part.replace(path)


def write_jsonl(path: pathlib.Path, rows: list[dict]) -> None:
  """Writes one JSON object a line, the whole file or nothing."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(path.name + ".part")
  part.write_text("".join(dumps(r) + "\n" for r in rows), encoding="utf-8")
  part.replace(path)


def read_json(path: pathlib.Path) -> Any:
  """The value of a JSON file; a UserError if it is not JSON."""
  return parse_json(path.read_bytes(), path)


def read_jsonl(path: pathlib.Path) -> list[Any]:
  """The values of a file with one JSON value a line."""
  with path.open(encoding="utf-8") as file:
    return [json.loads(line) for line in file]


def read_metrics(workdir: pathlib.Path) -> list[dict]:
  """The rows of a workdir's metrics.jsonl; a damaged line is not a row."""
  path = workdir / "metrics.jsonl"
  if not path.exists():
    return []
  rows = []
  for line in path.read_bytes().split(b"\n")[:-1]:
    with contextlib.suppress(ValueError):
      rows.append(json.loads(line))
  return [row for row in rows if isinstance(row, dict) and "step" in row]


class Metrics:
  """Writes a run's step metrics to metrics.jsonl and TensorBoard.

  Opening it on an existing workdir keeps the rows that `keep` accepts, so
  that steps which are done again after a restart appear once.
  """

  def __init__(self, workdir: pathlib.Path, keep: Callable[[dict], bool]):
    # Here, because tensorboardX imports torch where torch is installed.
    import tensorboardX

    self._path = workdir / "metrics.jsonl"
    self._rows = [row for row in read_metrics(workdir) if keep(row)]
    write_jsonl(self._path, self._rows)
    # In a bucket, where nothing can be appended, there are no events.
    self._events = self._file = None
    if isinstance(workdir, pathlib.Path):
      self._file = self._path.open("a", encoding="utf-8")
      self._events = tensorboardX.SummaryWriter(str(workdir / "events"))

  def write(
    self,
    stage: str,
    step: int,
    values: Mapping[str, float],
    evaluated: Mapping[str, float],
  ) -> None:
    """Appends one step; what was `evaluated` after it to the file alone."""
    row = {"stage": stage, "step": step, **values, **evaluated}
    if self._file is None:
      self._rows.append(row)
      write_jsonl(self._path, self._rows)
      return
    self._file.write(dumps(row) + "\n")
    self._file.flush()
    for name, value in values.items():
      self._events.add_scalar(f"{stage}/{name}", value, step)

  def scalars(
    self, name: str, stage: str, step: int, values: Mapping[str, Any]
  ) -> None:
    """Shows an evaluation's numbers in TensorBoard."""
    for key, value in values.items():
      if self._events and type(value) is float:
        self._events.add_scalar(f"{stage}/{name}/{key}", value, step)

  def close(self) -> None:
    if self._file:
      self._file.close()
      self._events.close()


def say(note: str) -> None:
  """Tells people something before a run has a console."""
  print(note, file=sys.stderr)


def duration(seconds: float) -> str:
  """Seconds for people: 48s, 3m05s, 2h10m."""
  whole = int(round(seconds))
  if whole < 60:
    return f"{whole}s"
  if whole < 3600:
    return f"{whole // 60}m{whole % 60:02d}s"
  return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress:
  """Shows how the run goes: a live table on a terminal, lines elsewhere."""

  def __init__(self, console: rich.console.Console):
    self._console = console
    self._live = rich.live.Live(console=console, refresh_per_second=4)
    self._seconds = collections.deque(maxlen=11)  # of the latest steps
    if console.is_terminal:
      self._live.start()

  def note(self, text: str) -> None:
    """Prints a line that stays."""
    self._console.print(text, highlight=False, soft_wrap=True, markup=False)

  def step(
    self, stage: str, step: int, steps: int, values: Mapping[str, float]
  ) -> None:
    """Shows the step that was just done and the time that the stage needs."""
    self._seconds.append(values["seconds"])
    # The median: the first step compiles, and some steps save or refill.
    left = statistics.median(self._seconds) * (steps - step)
    cells = {
      "stage": stage,
      "step": f"{step}/{steps}",
      **shown(values),
      "left": duration(left),
    }
    if not self._console.is_terminal:
      words = (f"{name} {value}" for name, value in cells.items())
      self.note("  ".join(words).removeprefix("stage "))
      return
    shown_cells = [
      rich.text.Text.assemble((f"{name} ", "dim"), value)
      for name, value in cells.items()
    ]
    # As many to a line as fit the terminal.
    self._live.update(rich.columns.Columns(shown_cells, padding=(0, 2)))

  def close(self) -> None:
    self._live.stop()


def shown(values: Mapping[str, float]) -> dict[str, str]:
  """What people follow of a step's metrics, formatted, in order."""
  first = "reward" if "reward" in values else "loss"
  cells = {first: f"{values[first]:.3f}"}
  for name, value in values.items():
    if name.startswith("reward/"):
      cells[name.removeprefix("reward/")] = f"{value:.2f}"
  for name, key in (
    ("answered", "answered_ratio"),
    ("length", "completion_length"),
    ("s/step", "seconds"),
  ):
    if key in values:
      cells[name] = f"{values[key]:.2f}"
  return cells
