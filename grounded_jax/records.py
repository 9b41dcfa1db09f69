"""What the host side passes around: questions with passages, and completions.

No jax here: rewards, metric and data tools run beside any trainer.
"""

import dataclasses

TASKS = ("short", "list", "claims")

TASK_OF_DATASET = {
  "asqa": "short",
  "nq": "short",
  "qampari": "list",
  "eli5": "claims",
  "expertqa": "claims",
}


class UserError(ValueError):
  """A mistake of the user's: one sentence, shown without a traceback."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doc:
  """One retrieved passage."""

  title: str
  text: str
  # One 0/1 per gold answer: does this passage hold it?  Never in a prompt.
  answers_found: tuple[int, ...] = ()

  @property
  def premise(self) -> str:
    """The passage as the verifier reads it (paper.md section 5)."""
    return f"Title: {self.title}\n{self.text}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
  """One question with the passages shown for it.

  `answers` holds one tuple of aliases per gold answer (claims tasks: one
  claim each).  `answerable` is true when any shown passage holds any answer.
  """

  id: str
  task: str  # one of TASKS
  question: str
  docs: tuple[Doc, ...]
  answers: tuple[tuple[str, ...], ...]
  answerable: bool
  dataset: str = ""

  @property
  def supported(self) -> tuple[bool, ...]:
    """For each gold answer: does any shown passage hold it?"""
    return tuple(
      any(doc.answers_found[i] for doc in self.docs if doc.answers_found)
      for i in range(len(self.answers))
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completion:
  """One sampled answer, split into its parts."""

  text: str  # everything the policy wrote (a template's prefill included)
  answer: str  # the answer part: what the metric scores
  think: str = ""
  finished: bool = True  # ended by EOS, not cut by length
  tokens: int = 0  # sampled tokens, EOS included


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """A reward: its total and the named parts that sum to it."""

  total: float
  parts: dict[str, float]
