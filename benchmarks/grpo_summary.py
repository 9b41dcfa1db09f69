"""Medians, ranges and ratios of runs side by side, and their tables."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
import rich.table

from benchmarks import quiet

WARM = 2  # steps left out of the medians, as in grounded_jax.benchmark
COLD = 5  # a cold start ends with this step

Run = Mapping[str, Any]  # as benchmarks.grpo_step writes it


def steady(run: Run) -> list[dict[str, Any]]:
  """The steps of a run that are counted."""
  return run["steps"][WARM:] or run["steps"]


def cold_start(run: Run) -> float | None:
  """Seconds from the start of the process to the end of step 5."""
  steps = run["steps"][:COLD]
  return sum(s["seconds"] for s in steps) if len(steps) == COLD else None


def system(runs: Sequence[Run]) -> dict[str, Any]:
  """The summary of one system's runs of one shape; none of them failed."""
  steps = [step for run in runs for step in steady(run)]
  left_alone = [s for s in steps if quiet.is_quiet(s["disturbed"])]
  seconds = [s["seconds"] for s in steps]
  known = [s["disturbed"] for s in steps if s["disturbed"] is not None]
  cold = [c for c in map(cold_start, runs) if c is not None]
  median = statistics.median(seconds)
  calm = _median(s["seconds"] for s in left_alone)
  tokens = runs[0]["tokens"]
  return {
    "runs": len(runs),
    "steps": len(steps),
    "quiet_steps": len(left_alone),
    "step_seconds": median,
    "least_seconds": min(seconds),
    "most_seconds": max(seconds),
    "quiet_step_seconds": calm,
    "rollout_seconds": _median(s["rollout"] for s in steps),
    "update_seconds": _median(s["update"] for s in steps),
    "tokens_per_second": tokens / median,
    "quiet_tokens_per_second": tokens / calm if calm else None,
    "peak_rss_bytes": max(run["peak_rss_bytes"] for run in runs),
    "cold_start_seconds": _median(cold),
    "disturbed_median": _median(known),
    "disturbed_most": max(known, default=None),
  }


def _median(values) -> float | None:
  values = list(values)
  return statistics.median(values) if values else None


def ratios(ours: Sequence[Run], peer: Sequence[Run]) -> dict[str, Any]:
  """How ours compares with a peer on the same shape.

  Speeds are ours over the peer's, so that more is better; memory and cold
  start are ours over the peer's too, so that less is better.
  """
  a, b = system(ours), system(peer)
  over = lambda name: a[name] / b[name] if a[name] and b[name] else None
  speed = {run["round"]: system([run])["step_seconds"] for run in ours}
  rounds = [
    system([run])["step_seconds"] / speed[run["round"]]
    for run in peer
    if run["round"] in speed
  ]
  return {
    "speed": over("tokens_per_second"),
    "quiet_speed": over("quiet_tokens_per_second"),
    "speed_by_round": rounds,
    "peak_rss": over("peak_rss_bytes"),
    "cold_start": over("cold_start_seconds"),
  }


def summary(runs: Sequence[Run]) -> dict[str, Any]:
  """For each shape: each system's summary, and ours over each peer."""
  out: dict[str, Any] = {}
  good = [run for run in runs if not run["error"]]
  for shape in dict.fromkeys(run["shape"] for run in runs):
    by_system: dict[str, list[Run]] = {}
    for run in good:
      if run["shape"] == shape:
        by_system.setdefault(run["system"], []).append(run)
    ours = by_system.get("ours")
    out[shape] = {
      "systems": {name: system(rows) for name, rows in by_system.items()},
      "ours_over": {
        name: ratios(ours, rows)
        for name, rows in by_system.items()
        if ours and name != "ours"
      },
      "failed": [
        f"{run['system']}, round {run['round'] + 1}: {run['error']}"
        for run in runs
        if run["shape"] == shape and run["error"]
      ],
    }
  return out


def show(found: Mapping[str, Any], console: rich.console.Console) -> None:
  """Prints the tables."""
  times = rich.table.Table(title="A step: medians over all steady steps")
  for name in (
    "",
    "steps (quiet)",
    "seconds",
    "range",
    "quiet",
    "rollout",
    "update",
    "tokens/s",
    "peak RSS, GB",
    "cold start, s",
    "others, cores",
  ):
    times.add_column(name, justify="right" if name else "left")
  compared = rich.table.Table(title="Ours over theirs")
  for name in ("", "speed", "quiet", "by round", "peak RSS", "cold start"):
    compared.add_column(name, justify="right" if name else "left")
  for shape, parts in found.items():
    for name, row in parts["systems"].items():
      times.add_row(f"{shape}, {name}", *_times(row))
    for name, row in parts["ours_over"].items():
      compared.add_row(f"{shape}, {name}", *_compared(row))
  console.print(times)
  console.print(compared)
  for shape, parts in found.items():
    for failure in parts["failed"]:
      console.print(f"{shape} failed: {failure}", style="red", markup=False)


def _text(value: float | None, digits: int = 2) -> str:
  return "-" if value is None else f"{value:.{digits}f}"


def _span(low: float | None, high: float | None, digits: int = 2) -> str:
  return f"{_text(low, digits)} - {_text(high, digits)}"


def _times(row: Mapping[str, Any]) -> list[str]:
  return [
    f"{row['steps']} ({row['quiet_steps']})",
    _text(row["step_seconds"]),
    _span(row["least_seconds"], row["most_seconds"]),
    _text(row["quiet_step_seconds"]),
    _text(row["rollout_seconds"]),
    _text(row["update_seconds"]),
    _text(row["tokens_per_second"], 0),
    _text(row["peak_rss_bytes"] / 1e9),
    _text(row["cold_start_seconds"], 1),
    _span(row["disturbed_median"], row["disturbed_most"]),
  ]


def _compared(row: Mapping[str, Any]) -> list[str]:
  rounds = row["speed_by_round"]
  return [
    _text(row["speed"]),
    _text(row["quiet_speed"]),
    _span(min(rounds, default=None), max(rounds, default=None)),
    _text(row["peak_rss"]),
    _text(row["cold_start"]),
  ]
