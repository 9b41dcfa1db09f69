"""Seconds of a step under each schedule of sampling, scoring and updating.

    python -m benchmarks.overlap --sample=2.2 --score=0.5 --update=1.2
    python -m benchmarks.overlap --metrics=DIR/metrics.jsonl --draws=3

A simulation, from the seconds of a synchronous step: given, or the medians that
metrics.jsonl has of a run's last stage.  The schedules are those of the
training loop:

  synchronous   sample, score, update, one after another
  chunked       in `chunks` parts, one scored while the next is sampled
  one_step_off  all devices sample step k + 1, then update on step k, while
                the host scores k + 1
  split         the same with the last devices sampling and the others
                updating, for every number of them; the best is named

The loop has no split yet; its row says what one would gain.

What it assumes: work takes the same seconds in every step; programs of a set of
devices run one after another, in the order in which they are begun; one host
thread scores; what the loop does besides takes no time; the update takes
seconds in inverse proportion to its devices, and so does sampling but for the
share `fixed` of it, which latency bounds on however many devices; on split
devices the parameters take `transfer` seconds to the sampler.  Groups that are
drawn anew, `draws` - 1 times a step and for equal shares of the seconds, wait
for the scores of the draw before, and the first draw of step k + 1 for all of
step k.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import statistics

from grounded_jax import log
from grounded_jax.records import UserError

_STEPS = 400  # simulated; the first half is left out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """Seconds of a step's parts, on all devices."""

  sample: float
  score: float
  update: float
  draws: int = 1  # of a step: more than one where groups are drawn anew
  transfer: float = 0.0  # of the parameters, on split devices
  fixed: float = 0.0  # share of `sample` that devices do not change


class Timeline:
  """When each resource is free: what it is given it does in order."""

  def __init__(self):
    self._free = collections.defaultdict(float)

  def run(self, resource: str, seconds: float, after: float) -> float:
    """When the work ends that may not begin before `after`."""
    end = max(self._free[resource], after) + seconds
    self._free[resource] = end
    return end


def synchronous(work: Work, chunks: int = 1) -> float:
  """Seconds of a step that samples, scores and updates in turn."""
  line, updated = Timeline(), [0.0]
  for _ in range(_STEPS):
    scored = updated[-1]
    for _ in range(work.draws):
      begun = scored
      for _ in range(chunks):
        parts = work.draws * chunks
        sampled = line.run("devices", work.sample / parts, begun)
        scored = line.run("host", work.score / parts, sampled)
    updated.append(line.run("devices", work.update, scored))
  return _steady(updated)


def one_step_off(work: Work, devices: int = 1, sampling: int = 0) -> float:
  """Seconds of a step whose rollout was begun before the update before it.

  Args:
    work: on all devices.
    devices: that there are.
    sampling: how many of them sample only; 0 = all do both in turn.
  """
  line, updated = Timeline(), [0.0]
  sampler, learner = "devices", "devices"
  sample, update, transfer = work.sample, work.update, 0.0
  if sampling:
    sampler, transfer = "samplers", work.transfer
    sample *= work.fixed + (1 - work.fixed) * devices / sampling
    update *= devices / (devices - sampling)

  def draw(after: float) -> float:
    sampled = line.run(sampler, sample / work.draws, after)
    return line.run("host", work.score / work.draws, sampled)

  first = draw(0.0)
  for _ in range(_STEPS):
    scored = first
    for _ in range(work.draws - 1):
      scored = draw(scored)
    first = draw(max(scored, updated[-1] + transfer))
    updated.append(line.run(learner, update, scored))
  return _steady(updated)


def _steady(ends: list[float]) -> float:
  """The mean distance of the ends of the last half of the steps."""
  half = len(ends) // 2
  return (ends[-1] - ends[half]) / (len(ends) - 1 - half)


def table(work: Work, chunks: int, devices: int) -> dict[str, dict]:
  """Each schedule's seconds, and how many times faster it is."""
  plain = synchronous(work)
  seconds = {
    "synchronous": plain,
    "chunked": synchronous(work, chunks),
    "one_step_off": one_step_off(work),
  }
  splits = {n: one_step_off(work, devices, n) for n in range(1, devices)}
  best = min(splits, key=splits.__getitem__, default=None)
  if best:
    seconds["split"] = splits[best]
  out = {
    name: {"seconds": round(s, 4), "times_faster": round(plain / s, 3)}
    for name, s in seconds.items()
  }
  if best:
    out["split"] |= {"sampling": best, "updating": devices - best}
  return out


def measured(path: str, draws: int) -> Work:
  """The medians of the last stage in a run's metrics.jsonl."""
  rows = log.read_jsonl(pathlib.Path(path))
  rows = [row for row in rows if row["stage"] == rows[-1]["stage"]]
  names = ("sample", "score", "update")
  if not all(f"seconds_{name}" in row for row in rows for name in names):
    raise UserError(f"{path} does not end with a stage of GRPO.")
  medians = {
    name: statistics.median(row[f"seconds_{name}"] for row in rows)
    for name in names
  }
  return Work(**medians, draws=draws)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--metrics", default="", help="in place of the seconds")
  for name in ("sample", "score", "update", "transfer", "fixed"):
    parser.add_argument(f"--{name}", type=float, default=0.0)
  parser.add_argument("--draws", type=int, default=1)
  parser.add_argument("--chunks", type=int, default=4)
  parser.add_argument("--devices", type=int, default=8)
  args = parser.parse_args()
  work = Work(
    sample=args.sample,
    score=args.score,
    update=args.update,
    draws=args.draws,
  )
  if args.metrics:
    work = measured(args.metrics, args.draws)
  work = dataclasses.replace(work, transfer=args.transfer, fixed=args.fixed)
  if work.sample + work.score + work.update <= 0:
    parser.error("give --metrics, or --sample, --score and --update")
  schedules = table(work, args.chunks, args.devices)
  print(json.dumps({"work": dataclasses.asdict(work)} | schedules, indent=2))


if __name__ == "__main__":
  main()
