"""Who decides whether a premise supports a hypothesis."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from grounded_jax import config


@runtime_checkable
class Verifier(Protocol):
  """Judges pairs; every caller collects its pairs and asks once.

  Any callable of this shape serves as one; those made here also have a
  `name`, which stands beside every score they give.
  """

  def __call__(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> Sequence[bool]:
    """For each pair, whether the premise entails the whole hypothesis."""
    ...


@runtime_checkable
class Metered(Verifier, Protocol):
  """A verifier that says how much it was asked."""

  name: str

  def metrics(self) -> dict[str, float]:
    """What was asked since the last call of this, and how fast it was told."""
    ...


def make(cfg: config.Verifier) -> Metered:
  """The verifier that a config names, remembering what it has said."""
  # Here, so that the types above can be had without any verifier's code.
  from grounded_jax.data import world
  from grounded_jax.verifiers import cache, disk, lexical

  made = {
    "lexical": lambda: lexical.Lexical(cfg.threshold),
    "oracle": world.Oracle,
  }[cfg.kind]()
  kept = disk.Disk(cfg.disk) if cfg.disk else None
  return cache.Cached(made, cfg.cache, kept)
