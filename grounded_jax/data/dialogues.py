"""Conversations that are already worded: demonstrations and preferences.

The rows are those of Trust-Align's training sets (arXiv:2409.11242) and of TRL:

  {"messages": [{"role": "system"?, ...}, {"role": "user", ...}, ...,
                {"role": "assistant", "content": what is taught}]}
  {"prompt": ..., "chosen": ..., "rejected": ...}

Of a preference each part is a text or a list of messages.  A prompt that is a
text is one turn of the user's.  `chosen` and `rejected` may repeat the prompt's
messages, which may then be left out.  Every mistake names the file and the row.
"""

import pathlib
from collections.abc import Callable
from typing import Any

from grounded_jax import log
from grounded_jax.data import parsing, reading
from grounded_jax.records import Dialogue, UserError, absence

_ROLES = ("system", "user", "assistant")
_SHAPES = {
  "sft.path": '{"messages": [{"role": ..., "content": ...}, ...]}',
  "dpo.path": '{"prompt": ..., "chosen": ..., "rejected": ...}',
}
_Turns = tuple[tuple[str, str], ...]


def demonstrations(path: str) -> tuple[Dialogue, ...]:
  """The conversations of files, each with its last turn as the completion.

  Args:
    path: files, comma-separated.

  Raises:
    UserError: a file is missing, or a row is not such a conversation.
  """
  return _each("sft.path", path, _demonstration)


def preferences(path: str) -> tuple[Dialogue, ...]:
  """The pairs of files, each prompt with (chosen, rejected), that differ.

  Args:
    path: files, comma-separated.

  Raises:
    UserError: a file is missing, or a row is not such a pair.
  """
  found = _each("dpo.path", path, _preference)
  differ = tuple(row for row in found if len(set(row.completions)) > 1)
  if len(differ) < len(found):
    log.say(
      f"{path}: {len(found) - len(differ)} of {len(found)} pairs left out: what"
      " is chosen is what is rejected."
    )
  if not differ:
    raise UserError(f"dpo.path={path} holds no pair to learn from.")
  return differ


def _each(
  field: str,
  path: str,
  read: Callable[[str, dict[str, Any]], tuple[_Turns, tuple]],
) -> tuple[Dialogue, ...]:
  out = []
  for name in filter(None, map(str.strip, path.split(","))):
    file = pathlib.Path(name)
    if not name.startswith(reading.HUB) and not file.is_file():
      raise UserError(
        f"{field}: {file} {absence(file)}: give JSON lines of {_SHAPES[field]},"
        " or leave it empty to learn from annotated records."
      )
    for where, row in parsing.rows(name, expected=_SHAPES[field]):
      turns, completions = read(where, row)
      out.append(Dialogue(id=where, turns=turns, completions=completions))
  if not out:
    raise UserError(f"{field}={path} holds no row to learn from.")
  return tuple(out)


def _demonstration(
  where: str, row: dict[str, Any]
) -> tuple[_Turns, tuple[str, ...]]:
  if "messages" not in row:
    raise UserError(
      f"{where} has no 'messages': a row of sft.path is {_SHAPES['sft.path']}."
    )
  where_in = f"{where}: 'messages'"
  *before, last = _messages(where_in, row["messages"])
  completion = _answer(where_in, last)
  return _asked(where, tuple(before)), (completion,)


def _preference(
  where: str, row: dict[str, Any]
) -> tuple[_Turns, tuple[str, ...]]:
  for name in ("chosen", "rejected"):
    if name not in row:
      raise UserError(
        f"{where} has no {name!r}: a row of dpo.path has prompt, chosen and"
        " rejected."
      )
  turns = None
  if row.get("prompt") is not None:
    turns = _prompt(where, row["prompt"])
  completions = []
  for name in ("chosen", "rejected"):
    before, completion = _completion(f"{where}: {name!r}", row[name])
    if before and turns is not None and before != turns:
      raise UserError(
        f"{where}: {name!r} begins with other turns than the prompt: a pair"
        " needs one prompt for both."
      )
    turns = before or turns
    completions.append(completion)
  return _asked(where, turns or ()), tuple(completions)


def _prompt(where: str, value: Any) -> _Turns:
  if type(value) is str:
    return (("user", value),)
  return _messages(f"{where}: 'prompt'", value, or_text="a text or ")


def _completion(where: str, value: Any) -> tuple[_Turns, str]:
  """The turns before a completion, if it repeats them, and its text."""
  if type(value) is str:
    return (), _answer(where, ("assistant", value))
  *before, last = _messages(where, value, or_text="a text or ")
  return tuple(before), _answer(where, last)


def _messages(where: str, value: Any, or_text: str = "") -> _Turns:
  if type(value) is not list or not value:
    raise UserError(
      f"{where} must be {or_text}a list of messages, at least one."
    )
  out = []
  for number, message in enumerate(value, start=1):
    if (
      type(message) is not dict
      or message.get("role") not in _ROLES
      or type(message.get("content")) is not str
    ):
      raise UserError(
        f"{where}, message {number}, must have a 'content' that is a text and a"
        f" 'role' that is one of {', '.join(_ROLES)}."
      )
    out.append((message["role"], message["content"]))
  return tuple(out)


def _answer(where: str, turn: tuple[str, str]) -> str:
  """The text of a turn that must be the assistant's and say something."""
  role, content = turn
  if role != "assistant" or not content.strip():
    raise UserError(
      f"{where} must end with words of the assistant's: they are what is"
      " taught."
    )
  return content


def _asked(where: str, turns: _Turns) -> _Turns:
  """The turns of a prompt, which must end with what the user says."""
  if not turns or turns[-1][0] != "user" or not turns[-1][1].strip():
    raise UserError(
      f"{where}: what comes before the completion must end with words of the"
      " user's."
    )
  return turns
