"""Who decides whether a premise supports a hypothesis."""

from collections.abc import Sequence
from typing import Protocol


class Verifier(Protocol):
  """Judges pairs; every caller collects its pairs and asks once.

  Any callable of this shape serves where no name is asked for.
  """

  def __call__(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> Sequence[bool]:
    """For each pair, whether the premise entails the whole hypothesis."""
    ...
