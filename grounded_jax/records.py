"""What the host side passes around: questions with passages, and completions.

No jax here: rewards, metric and data tools run beside any trainer.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

TASKS = ("short", "list", "claims")

TASK_OF_DATASET = {
  "asqa": "short",
  "nq": "short",
  "qampari": "list",
  "eli5": "claims",
  "expertqa": "claims",
}


class Preempted(Exception):
  """The run was told to end, and has saved."""


class UserError(ValueError):
  """A mistake of the user's: one sentence, shown without a traceback."""


@contextlib.contextmanager
def reading(what: str, advice: str) -> Iterator[None]:
  """Makes a UserError of whatever a library raises over a broken file."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    raise UserError(f"{what} cannot be read ({reason}): {advice}.") from error


def parse_json(content: str | bytes, path: Any, line: int = 1) -> Any:
  """The JSON value of a file, or of what begins at a line of it.

  Raises:
    UserError: names the file and the line.
  """
  try:
    return json.loads(content)
  except json.JSONDecodeError as error:
    raise UserError(
      f"{path} line {line + error.lineno - 1} is not JSON: {error.msg} at"
      f" column {error.colno}."
    ) from None
  except (RecursionError, ValueError) as error:  # too deep, too many digits
    raise UserError(
      f"{path} line {line} cannot be read as JSON: {error}."
    ) from None


def absence(path: pathlib.Path) -> str:
  """Why a path that is no file cannot be read, as words."""
  if not path.exists():
    return "does not exist"
  return "is a directory" if path.is_dir() else "is not a plain file"


def find_task(where: str, task: Any, dataset: Any) -> str:
  """The task that is stated, or else that of a known data set.

  Raises:
    UserError: there is none of that name.
  """
  found = task or TASK_OF_DATASET.get(str(dataset).lower(), "")
  if found not in TASKS:
    raise UserError(
      f"{where}: the task is {found or 'not stated'!r}; it must be one of"
      f" {', '.join(TASKS)}: state it as 'task', or by a 'dataset'"
      f" ({', '.join(TASK_OF_DATASET)}), or set one for all records."
    )
  return found


def check_doc(where: str, doc: Mapping[str, Any], golds: int) -> None:
  """Refuses a passage that lacks a field, or a bit for a gold answer."""
  for name in ("title", "text", "answers_found"):
    if doc.get(name) is None:
      raise UserError(f"{where} has no {name!r}.")
  found = len(doc["answers_found"])
  if found != golds:
    raise UserError(f"{where} has {found} answers_found for {golds} answers.")


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
class Dialogue:
  """A prompt that is already worded, with completions written for it."""

  id: str
  turns: tuple[tuple[str, str], ...]  # (role, content) of each message
  completions: tuple[str, ...]  # one to be taught, or (chosen, rejected)


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
