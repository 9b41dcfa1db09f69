"""Who decides whether a premise supports a hypothesis."""

import dataclasses
import functools
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

  # A model is the same one whatever is remembered of it.
  bare = dataclasses.replace(cfg, cache=0, disk="")
  made = {
    "lexical": lambda: lexical.Lexical(cfg.threshold),
    "oracle": world.Oracle,
    "t5": lambda: _model(bare),
    "classifier": lambda: _model(bare),
  }[cfg.kind]()
  kept = disk.Disk(cfg.disk) if cfg.disk else None
  return cache.Cached(made, cfg.cache, kept)


@functools.lru_cache(maxsize=2)  # a reward and a headline
def _model(cfg: config.Verifier) -> Verifier:
  """A model, loaded once for all that ask for it."""
  if cfg.kind == "classifier":
    from grounded_jax.verifiers import classifier

    return classifier.Classifier(cfg)
  from grounded_jax.verifiers import t5  # with jax

  return t5.T5(cfg)
