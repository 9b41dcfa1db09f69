"""What a run of a peer shares with the others: work, reward, step lines.

Runs in a peer's own environment, so nothing of this project is imported.  A
token is written as the decimal of its id, and no id that ends a text is within
the model's vocabulary: every prompt has exactly L tokens and every completion
exactly C.
"""

import argparse
import dataclasses
import json
import pathlib
import random
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LEARNING_RATE, WEIGHT_DECAY, GRAD_CLIP = 1e-6, 0.01, 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """One run: the flags, as grounded_jax.benchmark has them."""

  model: pathlib.Path
  prompts: int
  prompt_len: int
  group: int
  new_tokens: int
  steps: int
  micro: int
  out: pathlib.Path

  def settings(self) -> dict[str, Any]:
    """The model's config.json."""
    return json.loads((self.model / "config.json").read_text("utf-8"))


def parse(about: str, argv: Sequence[str] | None = None) -> Work:
  """The work that the command line asks for."""
  parser = argparse.ArgumentParser(description=about)
  for field in dataclasses.fields(Work):
    parser.add_argument(f"--{field.name}", type=field.type, required=True)
  return Work(**vars(parser.parse_args(argv)))


def prompts(work: Work, vocab: int) -> list[str]:
  """The prompts of all steps, random."""
  rng = random.Random(0)
  one = lambda: [str(rng.randrange(3, vocab)) for _ in range(work.prompt_len)]
  return [" ".join(one()) for _ in range(work.prompts * work.steps)]


class Reward:
  """The share of even ids; it remembers how long completions were."""

  def __init__(self):
    self.__name__ = "even_share"  # peers name a reward by it
    self.lengths: list[int] = []

  def __call__(
    self, prompts: Sequence[str], completions: Sequence[str], **_: Any
  ) -> list[float]:
    ids = [[int(word) for word in text.split()] for text in completions]
    self.lengths += map(len, ids)
    return [sum(i % 2 == 0 for i in row) / max(len(row), 1) for row in ids]


class Steps:
  """Times steps and says each on stderr as soon as it ends."""

  def __init__(self, count: int):
    self.count = count
    self.seconds: list[tuple[float, float]] = []  # (rollout, all the rest)
    self._rollout = 0.0
    self._start = time.perf_counter()

  def start(self) -> None:
    """A step begins."""
    self._rollout, self._start = 0.0, time.perf_counter()

  def rollout(self, call: Callable) -> Callable:
    """The function, its time counted as sampling."""

    def timed(*args, **kwargs):
      start = time.perf_counter()
      try:
        return call(*args, **kwargs)
      finally:
        self._rollout += time.perf_counter() - start

    return timed

  def end(self) -> None:
    """A step ends, and the next begins."""
    whole = time.perf_counter() - self._start
    self.seconds.append((self._rollout, whole - self._rollout))
    print(
      f"step {len(self.seconds)}/{self.count}: {whole:.3f} s (rollout"
      f" {self._rollout:.3f}, update {whole - self._rollout:.3f})",
      file=sys.stderr,
      flush=True,
    )
    self.start()


def report(
  work: Work,
  steps: Steps,
  reward: Reward,
  moved: float,
  configured: Mapping[str, Any],
) -> None:
  """Checks that the work was done, and writes --out.

  Args:
    work: what was asked for.
    steps: what was timed.
    reward: what was scored.
    moved: the largest change of a weight over the run.
    configured: the peer's settings and the versions of its packages.
  """
  wanted = [work.new_tokens] * (work.steps * work.prompts * work.group)
  if len(steps.seconds) != work.steps or reward.lengths != wanted:
    raise RuntimeError(
      f"{len(steps.seconds)} steps of {len(reward.lengths)} completions with"
      f" {set(reward.lengths)} tokens, not {work}"
    )
  if not moved > 0:
    raise RuntimeError("no weight was updated")
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  flags = {k: str(v) if k in ("model", "out") else v
           for k, v in dataclasses.asdict(work).items()}  # fmt: skip
  out = {
    "work": flags,
    "configured": dict(configured),
    "step_seconds": [sum(row) for row in steps.seconds],
    "peak_rss_bytes": peak * (1 if sys.platform == "darwin" else 1024),
    "largest_change": moved,
  }
  work.out.write_text(json.dumps(out, indent=2) + "\n", "utf-8")
