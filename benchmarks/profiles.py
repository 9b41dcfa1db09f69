"""Where a step's time goes: one step of a system traced, by kind of operation.

    python -m benchmarks.profiles --system=ours --model=DIR --prompts=2
      --prompt_len=256 --group=4 --new_tokens=32 --out=FILE

--system is ours, trl or tunix, each in its own environment.  The step is the
third, when all is compiled.  Times are those of operations themselves, without
what they call, summed over threads; tracing slows a step, so that shares count
and not seconds.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmarks import peer_work

STEPS = 3  # the last one is traced
_TOP = 12  # operations that are named

# The first pattern that an operation's name has says what it is.
_TORCH = {
  "products": "addmm|::mm|bmm|matmul|linear",
  "attention": "attention",
  "softmax and its gradient": "softmax|logsumexp",
  "optimiser": "adam|foreach|clip_grad|_norm$",
  "copies and layouts": "copy|::cat|clone|contiguous|repeat|expand|slice|pad",
  "indexing": "index|gather|scatter|embedding|topk|sort|multinomial",
}
_XLA = {
  "products": "^dot|^ynn|^__ynn|matmul|convolution",
  "copies and layouts": "^copy|^transpose|^concatenate|^pad|copy_fusion",
  "indexing": "scatter|gather|dynamic|^sort|^topk|slice",
  "sums and maxima": "reduce",
}
OTHER = "everything else, element by element"
# Operations that only hold others.
_HOLDS = re.compile(r"^(while|call|conditional|tuple|parameter|get-tuple)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
  """Seconds of operations."""

  kinds: Mapping[str, float]
  operations: Mapping[str, float]

  def table(self) -> dict[str, Any]:
    """Shares, the largest first."""
    total = sum(self.kinds.values())
    ordered = lambda found: sorted(found.items(), key=lambda x: -x[1])
    return {
      "operation_seconds": total,
      "kinds": {name: x / total for name, x in ordered(self.kinds)},
      "operations": {
        name: x / total for name, x in ordered(self.operations)[:_TOP]
      },
    }


def summed(
  events: Iterable[tuple[str, float]], patterns: Mapping[str, str]
) -> Profile:
  """The profile of (operation, seconds)."""
  kinds, operations = collections.Counter(), collections.Counter()
  for name, seconds in events:
    plain = re.sub(r"(\.\d+|\.clone|\.remat\d*)+$", "", name)
    if _HOLDS.match(plain):
      continue
    kind = next(
      (k for k, pattern in patterns.items() if re.search(pattern, plain)),
      OTHER,
    )
    kinds[kind] += seconds
    operations[plain] += seconds
  return Profile(kinds=kinds, operations=operations)


class Torch:
  """Traces operations of torch."""

  def __init__(self):
    import torch

    self._profile = torch.profiler.profile(
      activities=[torch.profiler.ProfilerActivity.CPU]
    )

  def start(self) -> None:
    self._profile.start()

  def stop(self) -> Profile:
    self._profile.stop()
    rows = self._profile.key_averages()
    events = ((row.key, row.self_cpu_time_total / 1e6) for row in rows)
    return summed(events, _TORCH)


class Xla:
  """Traces operations of compiled programs on a CPU."""

  def __init__(self):
    self._folder = tempfile.TemporaryDirectory()

  def start(self) -> None:
    import jax

    jax.profiler.start_trace(self._folder.name)

  def stop(self) -> Profile:
    import jax

    jax.profiler.stop_trace()
    (path,) = pathlib.Path(self._folder.name).rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
    return summed(_operations(data), _XLA)


def _operations(data: Any) -> Iterator[tuple[str, float]]:
  """(name, seconds) of what is marked as an operation of a program."""
  for plane in data.planes:
    for line in plane.lines:
      for event in line.events:
        if any(name == "hlo_op" for name, _ in event.stats):
          yield event.name, event.duration_ns / 1e9


class Traced(peer_work.Steps):
  """Times steps and traces the last one."""

  def __init__(self, tracer: Torch | Xla):
    super().__init__(STEPS)
    self._tracer = tracer
    self.profile: Profile | None = None

  def end(self) -> None:
    super().end()
    if len(self.seconds) == STEPS - 1:
      self._tracer.start()
      self.start()
    elif len(self.seconds) == STEPS:
      self.profile = self._tracer.stop()


def ours(work: peer_work.Work) -> Profile:
  """A step of this project."""
  from grounded_jax import benchmark

  steps = Traced(Xla())
  shape = benchmark.Shape(
    model=str(work.model),
    prompts=work.prompts,
    prompt_len=work.prompt_len,
    group=work.group,
    new_tokens=work.new_tokens,
    steps=STEPS,
    beta=0.0,
    micro=work.micro,
    remat="dots",
  )
  steps.start()
  benchmark.run(shape, ended=steps.end)
  return steps.profile


def peer(name: str, work: peer_work.Work) -> Profile:
  """A step of a peer, whose own module runs it."""
  if name == "trl":
    from benchmarks import peer_trl as module

    steps = Traced(Torch())
  else:
    from benchmarks import peer_tunix as module

    steps = Traced(Xla())
  module.run(work, steps)
  return steps.profile


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--system", choices=("ours", "trl", "tunix"))
  parser.add_argument("--model", type=pathlib.Path, required=True)
  for name in ("prompts", "prompt_len", "group", "new_tokens"):
    parser.add_argument(f"--{name}", type=int, required=True)
  parser.add_argument("--micro", type=int, default=0)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = vars(parser.parse_args())
  system = args.pop("system")
  work = peer_work.Work(**args, steps=STEPS)
  # A report of the run beside the profile, which peers write as well.
  work = dataclasses.replace(work, out=work.out.with_suffix(".run.json"))
  found = ours(work) if system == "ours" else peer(system, work)
  text = json.dumps(found.table(), indent=2)
  args["out"].write_text(text + "\n", "utf-8")
  with contextlib.suppress(BrokenPipeError):
    print(text, file=sys.stdout)


if __name__ == "__main__":
  main()
