"""The shapes that are timed side by side, and how each system is called.

All three take the same flags; each is a process of its own, in an environment
of its own.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

SYSTEMS = ("ours", "trl", "tunix")
MODULES = {
  "ours": "grounded_jax.benchmark",
  "trl": "benchmarks.peer_trl",
  "tunix": "benchmarks.peer_tunix",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """The work of a step, and what each system is given at once."""

  model: str  # tiny, smollm2 or smoke: what benchmarks.write_models writes
  prompts: int
  prompt_len: int  # tokens
  group: int  # completions of each prompt
  new_tokens: int  # of each completion
  steps: int  # of a run; the first two are left out of medians
  rounds: int  # runs of each system
  # The micro-batch of each system that is run: completions for TRL, prompts
  # for the others; 0 = the whole batch at once.
  micro: Mapping[str, int]

  @property
  def tokens(self) -> int:
    """Tokens of a step, each completion counted with its prompt."""
    return self.prompts * self.group * (self.prompt_len + self.new_tokens)


_ALL = {"ours": 0, "trl": 0, "tunix": 0}

SHAPES = {
  "a": Shape(
    model="tiny",
    prompts=8,
    prompt_len=256,
    group=8,
    new_tokens=64,
    steps=8,
    rounds=2,
    micro=_ALL,
  ),
  "b": Shape(
    model="smollm2",
    prompts=2,
    prompt_len=256,
    group=4,
    new_tokens=32,
    steps=6,
    rounds=2,
    micro=_ALL,
  ),
  # Tunix computes a prompt's whole group at once, with the logits of every
  # token: by estimate it needs more than 24 GB at c and d.
  "c": Shape(
    model="smollm2",
    prompts=2,
    prompt_len=512,
    group=8,
    new_tokens=64,
    steps=5,
    rounds=1,
    micro={"ours": 0, "trl": 4},
  ),
  "d": Shape(
    model="smollm2",
    prompts=2,
    prompt_len=1024,
    group=8,
    new_tokens=96,
    steps=5,
    rounds=1,
    micro={"ours": 0, "trl": 2},
  ),
  # Seconds: does everything run?  Its timings mean nothing.
  "smoke": Shape(
    model="smoke",
    prompts=2,
    prompt_len=16,
    group=4,
    new_tokens=8,
    steps=5,
    rounds=1,
    micro=_ALL,
  ),
}


def command(
  system: str,
  shape: Shape,
  python: str,
  model: pathlib.Path,
  out: pathlib.Path,
  extra: Sequence[str] = (),
) -> list[str]:
  """The command line of one run.

  Args:
    system: one of SYSTEMS.
    shape: what is timed.
    python: the interpreter of the system's environment.
    model: the model's directory.
    out: the JSON file that the run writes.
    extra: flags for ours alone.
  """
  sizes = ("prompts", "prompt_len", "group", "new_tokens", "steps")
  return [
    python,
    "-m",
    MODULES[system],
    f"--model={model}",
    *(f"--{name}={vars(shape)[name]}" for name in sizes),
    f"--micro={shape.micro[system]}",
    f"--out={out}",
    *(extra if system == "ours" else ()),
  ]


def turns(
  shape: Shape, systems: Sequence[str], rounds: int
) -> Iterator[tuple[int, str]]:
  """(round, system) in the order of the runs: in every round each system."""
  for i in range(rounds):
    for system in systems:
      if system in shape.micro:
        yield i, system
