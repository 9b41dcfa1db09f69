"""Whether a machine was left alone while something was timed on it.

Linux counts the processor time of the whole machine (/proc/stat), what a
hypervisor gave to others (steal) and that of each process (/proc/PID/stat).
All of it minus what the timed process and this one used is what others took.
Elsewhere nothing is known, and every disturbance is None.
"""

import dataclasses
import os
import pathlib
import time

QUIET = 0.1  # a step is quiet when others took less than this many cores

_PROC = pathlib.Path("/proc")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stamp:
  """The clocks at one moment; all but `wall` are sums since the start."""

  wall: float  # seconds
  busy: float  # CPU-seconds of every process of the machine
  stolen: float  # CPU-seconds that the host gave to others
  own: float  # CPU-seconds of this process and of the timed one


def stamp(pid: int | None = None, proc: pathlib.Path = _PROC) -> Stamp | None:
  """The clocks now; None where the machine does not tell.

  Args:
    pid: of the timed process, running or not yet waited for.
    proc: where the kernel's files are.
  """
  try:
    first = (proc / "stat").read_text().splitlines()[0]
    timed = (proc / str(pid) / "stat").read_text() if pid else ""
  except OSError:
    return None
  user, nice, system, _, _, irq, softirq, steal, *_ = map(
    int, first.split()[1:]
  )
  # After the name in parentheses: utime, stime and those of children that
  # ended are the 12th to 15th.
  used = map(int, timed.rpartition(")")[2].split()[11:15])
  tick = os.sysconf("SC_CLK_TCK")
  return Stamp(
    wall=time.perf_counter(),
    busy=(user + nice + system + irq + softirq) / tick,
    stolen=steal / tick,
    own=sum(used) / tick + time.process_time(),
  )


def disturbance(before: Stamp | None, after: Stamp | None) -> float | None:
  """Cores that others took between two moments; None if it is not known."""
  if before is None or after is None:
    return None
  others = (after.busy - before.busy) - (after.own - before.own)
  taken = max(others, 0.0) + after.stolen - before.stolen
  return taken / max(after.wall - before.wall, 1e-9)


def is_quiet(disturbed: float | None) -> bool:
  """Whether the machine is known to have been left alone."""
  return disturbed is not None and disturbed < QUIET


def wait(seconds: float) -> float:
  """Waits for a quiet second, at most so long; the seconds that it took."""
  start = time.perf_counter()
  while time.perf_counter() - start < seconds:
    before = stamp()
    time.sleep(1.0)
    disturbed = disturbance(before, stamp())
    if disturbed is None or is_quiet(disturbed):
      break
  return time.perf_counter() - start
