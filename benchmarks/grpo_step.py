"""GRPO steps of this project, TRL and Tunix on the same work, side by side.

    python -m benchmarks.grpo_step --shapes=a,b --out=runs/benchmark/ab.json
      --trl_python=TRL/bin/python --tunix_python=TUNIX/bin/python

Each run is a process of its own; in every round the systems take turns, so
that a machine that slows down slows them alike.  A system says each step on
stderr when it ends; this process stamps the lines with the clocks of the
machine and of the system, so that one clock times all three, and a step that
others disturbed is known.  How each system is called and what the columns mean
is in benchmarks/README.md.

Prints a JSON summary to stdout and tables to stderr.  --out has every run and
is written after each; --read prints the tables of such files and runs nothing.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import rich.console

from benchmarks import grpo_summary, quiet, shapes
from benchmarks import runs as runs_lib
from grounded_jax.records import UserError


def one_run(
  name: str, shape: shapes.Shape, turn: tuple[int, str], args: Any
) -> dict[str, Any]:
  """One run of one system, as it is written to --out."""
  number, system = turn
  python = vars(args)[f"{system}_python"]
  model = args.models / shape.model
  say = lambda text: print(
    f"{name}, round {number + 1}, {system}: {text}", file=sys.stderr
  )
  waited = quiet.wait(args.wait_quiet)
  with tempfile.TemporaryDirectory() as scratch:
    out = pathlib.Path(scratch) / "report.json"
    extra = [f"--remat={args.remat}"]
    command = shapes.command(system, shape, python, model, out, extra)
    steps, error = runs_lib.follow(command, say)
    report = json.loads(out.read_text("utf-8")) if out.is_file() else None
  if not error and (report is None or len(steps) != shape.steps):
    error = f"{len(steps)} steps of {shape.steps} and no report"
  if error:
    say(error)
  return {
    "shape": name,
    "system": system,
    "round": number,
    "tokens": shape.tokens,
    "steps": steps,
    "error": error,
    "peak_rss_bytes": report["peak_rss_bytes"] if report else None,
    "waited_seconds": waited,
    "report": report,
  }


def machine() -> dict[str, Any]:
  """What the runs ran on."""
  return {
    "platform": platform.platform(),
    "processor": platform.machine(),
    "cores": len(os.sched_getaffinity(0)),
    "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    "began": time.strftime("%Y-%m-%d %H:%M:%S"),
  }


def timed(args: Any) -> list[dict[str, Any]]:
  """Runs everything that is asked for; --out is whole after each run."""
  runs, where = [], machine()
  for name, shape in args.chosen.items():
    runs_lib.write_model(shape.model, args.models, args.ours_python)
    rounds = args.rounds or shape.rounds
    for turn in shapes.turns(shape, args.systems, rounds):
      runs.append(one_run(name, shape, turn, args))
      if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": where, "runs": runs}, indent=1)
        args.out.write_text(text + "\n", "utf-8")
  return runs


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> None:
    raise UserError(f"{message}; see --help.")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The flags; `chosen` has the shapes with overrides applied.

  Raises:
    UserError: a flag or a value that does not exist.
  """
  about, _, more = __doc__.partition("\n")
  parser = _Parser(
    description=about,
    epilog=more,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--shapes", default="a,b,c,d", help=f"Of {', '.join(shapes.SHAPES)}.")
  add("--systems", default=",".join(shapes.SYSTEMS), help="Those that run.")
  add("--rounds", type=int, default=0, help="Runs of each; 0 = the shape's.")
  add("--steps", type=int, default=0, help="Of a run; 0 = the shape's.")
  add("--micro", action="append", default=[], metavar="SHAPE:SYSTEM:SIZE")
  add("--remat", default="dots", help="Ours: none, dots, full.")
  add("--ours_python", default=sys.executable)
  add("--trl_python", default="", help="The interpreter that has trl.")
  add("--tunix_python", default="", help="The interpreter that has tunix.")
  add("--models", type=pathlib.Path, default=pathlib.Path("runs/benchmark"))
  add("--wait_quiet", type=float, default=60.0, help="Seconds before a run.")
  add("--out", type=pathlib.Path, default=None, help="JSON of all runs.")
  add("--read", action="append", default=[], help="Show this file of runs.")
  args = parser.parse_args(argv)
  args.models = args.models.absolute()
  for flag in (f"{name}_python" for name in shapes.SYSTEMS):
    path = vars(args)[flag]
    if os.sep in path:  # runs start in the repository
      vars(args)[flag] = os.path.abspath(path)
  args.systems = _known("--systems", args.systems, shapes.SYSTEMS)
  names = _known("--shapes", args.shapes, shapes.SHAPES)
  args.chosen = {name: shapes.SHAPES[name] for name in names}
  if args.steps:
    args.chosen = {
      name: dataclasses.replace(shape, steps=args.steps)
      for name, shape in args.chosen.items()
    }
  for text in args.micro:
    _override(args.chosen, text)
  args.systems = [
    name
    for name in args.systems
    if any(name in shape.micro for shape in args.chosen.values())
  ]
  flags = {name: f"{name}_python" for name in args.systems}
  lacking = [flag for flag in flags.values() if not vars(args)[flag]]
  if lacking and not args.read:
    flags = ", ".join(f"--{flag}" for flag in lacking)
    raise UserError(f"{flags} must name an interpreter, or leave --systems.")
  return args


def _known(flag: str, text: str, known: Sequence[str]) -> list[str]:
  names = [name for name in text.split(",") if name]
  for name in names:
    if name not in known:
      raise UserError(f"{flag}: {name!r} is not one of {', '.join(known)}.")
  return names


def _override(chosen: dict[str, shapes.Shape], text: str) -> None:
  """Applies one --micro; a system that a shape leaves out then runs."""
  found = re.fullmatch(r"(\w+):(\w+):(\d+)", text)
  if not found or found[2] not in shapes.SYSTEMS or found[1] not in chosen:
    raise UserError(
      f"--micro={text} is not SHAPE:SYSTEM:SIZE of a shape in --shapes."
    )
  shape = chosen[found[1]]
  micro = {**shape.micro, found[2]: int(found[3])}
  chosen[found[1]] = dataclasses.replace(shape, micro=micro)


def read(paths: Sequence[str]) -> list[dict[str, Any]]:
  """The runs of files that --out wrote."""
  runs = []
  for path in paths:
    try:
      runs += json.loads(pathlib.Path(path).read_text("utf-8"))["runs"]
    except (OSError, ValueError, KeyError):
      raise UserError(
        f"--read={path} is no file that --out wrote: name one."
      ) from None
  return runs


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit code: 1 if a run failed."""
  try:
    args = parse(argv)
    runs = read(args.read) if args.read else timed(args)
  except UserError as error:
    print(" ".join(str(error).split()), file=sys.stderr)
    return 2
  found = grpo_summary.summary(runs)
  print(json.dumps(found, indent=2))
  grpo_summary.show(found, rich.console.Console(stderr=True, width=150))
  return int(any(run["error"] for run in runs))


if __name__ == "__main__":
  # As an exception, so that the run that is under way ends too.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  sys.exit(main())
