"""One run of a system in a process of its own, its steps stamped from outside.

A system says each step on stderr when it ends.  The lines are stamped here with
the clocks of the machine and of the system, so that one clock times them all.
"""

import collections
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import quiet
from grounded_jax.records import UserError

ROOT = pathlib.Path(__file__).parents[1]
# What a system says at the end of a step.
STEP = re.compile(
  r"step (\d+)/\d+: [\d.]+ s \(rollout ([\d.]+), update ([\d.]+)\)"
)
_TAIL = 20  # lines of a failed run that are kept


def environment() -> dict[str, str]:
  """The environment of a run: on CPUs, offline, nothing compiled before."""
  kept = dict(os.environ)
  kept.pop("JAX_COMPILATION_CACHE_DIR", None)
  return kept | {
    "JAX_PLATFORMS": "cpu",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
  }


def follow(
  command: Sequence[str], say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], str]:
  """Runs a command; (its steps, why it failed or "").

  The first step begins with the process.

  Args:
    command: prints a line for each step, as grounded_jax.benchmark does.
    say: is told of each step.
  """
  steps, tail = [], collections.deque(maxlen=_TAIL)
  start, stamp = time.perf_counter(), quiet.stamp()
  process = subprocess.Popen(
    command,
    cwd=ROOT,
    env=environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    errors="replace",
  )
  try:
    for line in process.stderr:
      found = STEP.search(line)
      if not found:
        tail.append(line.strip())
        continue
      now, clocks = time.perf_counter(), quiet.stamp(process.pid)
      steps.append(
        {
          "seconds": now - start,
          "rollout": float(found[2]),
          "update": float(found[3]),
          "disturbed": quiet.disturbance(stamp, clocks),
        }
      )
      start, stamp = now, clocks
      say(_said(steps))
    code = process.wait()
  finally:
    if process.poll() is None:
      process.kill()
      process.wait()
  said = next((line for line in reversed(tail) if line), "no message")
  return steps, f"exit code {code}: {said}" if code else ""


def _said(steps: Sequence[Mapping[str, Any]]) -> str:
  step = steps[-1]
  disturbed = step["disturbed"]
  others = "unknown" if disturbed is None else f"{disturbed:.2f}"
  mark = "" if quiet.is_quiet(disturbed) else " *"
  return f"step {len(steps)}: {step['seconds']:.2f} s, others {others}{mark}"


def write_model(name: str, models: pathlib.Path, python: str) -> None:
  """Writes a model unless it is there.

  In a process of its own: a process that this one starts begins with the peak
  memory of this one.
  """
  path = models / name
  if (path / "config.json").is_file():
    return
  command = [python, "-m", "benchmarks.write_models"]
  done = subprocess.run(
    [*command, f"--model={name}", f"--out={path}"],
    cwd=ROOT,
    env=environment(),
    stderr=subprocess.PIPE,
    text=True,
  )
  if done.returncode:
    said = done.stderr.strip().splitlines() or ["no message"]
    raise UserError(f"The model {name} could not be written: {said[-1]}")
