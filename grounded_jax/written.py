"""Prompts with completions that were written, not sampled, as token arrays.

For supervised fine-tuning G demonstrations of a prompt, for preferences the
chosen completion and the rejected one.  The order is that of `pipeline`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from grounded_jax import config, pipeline, types
from grounded_jax.records import Dialogue, Example, UserError
from grounded_jax.tokenizer import Tokenizer, plain

_MULTIPLE = 16  # of an array's completion length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A prompt and its completions, as ids."""

  name: str
  prompt: list[int]
  completions: list[list[int]]
  dataset: str = ""
  answerable: bool = True


class Written:
  """The prompts of a stage, each with the completions written for it."""

  def __init__(
    self,
    rows: Sequence[Row],
    fits: pipeline.Fits,
    data: config.Data,
    section: str,
    cfg: config.SFT | config.DPO,
    seed: int,
    stage: int,
    answerable: str = "any",
  ):
    """Drops and counts rows that are too long, or without a completion.

    Args:
      rows: all that there are.
      fits: what fitting their prompts did.
      data: the longest prompt and the lengths of arrays.
      section: the name of `cfg`, for messages.
      cfg: how long completions may be.
      seed: of the order.
      stage: of the order.
      answerable: the choice of the rows, for the shares of a mix.
    """
    self.fits = fits
    self.without = sum(not row.completions for row in rows)
    full = [row for row in rows if row.completions]
    self._rows = [row for row in full if _short(row, data, cfg)]
    self.too_long = len(full) - len(self._rows)
    if not self._rows:
      raise UserError(
        f"None of {len(rows)} prompts has a completion that fits:"
        f" {self.without} have none, because no sentence holds their answer,"
        f" and {self.too_long} are longer than data.max_prompt_len="
        f"{data.max_prompt_len}, {section}.max_new_tokens={cfg.max_new_tokens}"
        f" or {section}.max_len={cfg.max_len} tokens."
      )
    longest = max(len(ids) for row in self._rows for ids in row.completions)
    whole = -(-longest // _MULTIPLE) * _MULTIPLE
    self._completion = min(whole, cfg.max_new_tokens)
    longest = max(len(row.prompt) for row in self._rows)
    self._length = pipeline.bucket(longest, data)
    self._buckets = data.buckets
    self._order = pipeline.ordered(
      *pipeline.kinds_of(self._rows), data.train, seed, stage, answerable
    )

  def __len__(self) -> int:
    return len(self._rows)

  def take(self, cursor: int, n: int) -> types.SFTBatch:
    """The batch of positions cursor .. cursor + n - 1."""
    rows = [self._rows[which] for which, _ in self._order.take(cursor, n)]
    g = len(rows[0].completions)
    tokens = np.zeros((n, g, self._completion), np.int32)
    weight = np.zeros(tokens.shape, np.float32)
    for p, row in enumerate(rows):
      for i, ids in enumerate(row.completions):
        tokens[p, i, : len(ids)] = ids
        weight[p, i, : len(ids)] = 1.0
    longest = max(len(row.prompt) for row in rows)
    return types.SFTBatch(
      prompts=pipeline.pack(
        [row.prompt for row in rows],
        [pipeline.key(row.name) for row in rows],
        pipeline.shortest(longest, self._length, self._buckets),
      ),
      tokens=tokens,
      weight=weight,
    )


def _short(row: Row, data: config.Data, cfg: config.SFT | config.DPO) -> bool:
  longest = max(len(ids) for ids in row.completions)
  whole = len(row.prompt) + longest
  return (
    len(row.prompt) <= data.max_prompt_len
    and longest <= cfg.max_new_tokens
    and whole <= (cfg.max_len or whole)
  )


def of_examples(
  examples: Sequence[Example],
  texts: Callable[[Example], Sequence[str]],
  tokenizer: Tokenizer,
  data: config.Data,
  answerable: str = "any",
) -> tuple[list[Row], pipeline.Fits]:
  """A row of each example, and what fitting their prompts did.

  Args:
    examples: with annotated passages.
    texts: what is written for an example as it is shown; none if it cannot.
    tokenizer: of the model.
    data: how prompts are made.
    answerable: those that this excludes once passages are dropped are left out.

  Raises:
    UserError: what is written does not go on where the template stops.
  """
  fitted, fits = pipeline.fit_all(examples, tokenizer, data)
  prefill = pipeline.prefill(tokenizer, data)
  rows = [
    Row(
      name=example.id,
      prompt=ids,
      completions=[
        _ended(example.id, text, prefill, tokenizer, data)
        for text in texts(example)
      ],
      dataset=example.dataset,
      answerable=example.answerable,
    )
    for example, ids in pipeline.still(fitted, answerable)
  ]
  return rows, fits


def of_dialogues(
  dialogues: Sequence[Dialogue], tokenizer: Tokenizer, data: config.Data
) -> tuple[list[Row], pipeline.Fits]:
  """A row of each dialogue, worded as it is, and how long their prompts are.

  Args:
    dialogues: prompts with their completions.
    tokenizer: of the model.
    data: whether prompts go through the tokenizer's chat template.

  Raises:
    UserError: one does not go on where the template stops, or the template
      refuses it.
  """
  prefill = pipeline.prefill(tokenizer, data)
  rows = [
    Row(
      name=dialogue.id,
      prompt=tokenizer.encode(prompt(dialogue, tokenizer, data)),
      completions=[
        _ended(dialogue.id, text, prefill, tokenizer, data)
        for text in dialogue.completions
      ],
    )
    for dialogue in dialogues
  ]
  lengths = [len(row.prompt) for row in rows]
  return rows, pipeline.Fits(
    prompts=len(rows),
    longest=max(lengths),
    mean=sum(lengths) / len(lengths),
    shortened=0,
    passages=0,
    flipped=0,
  )


def shown(
  dialogue: Dialogue, tokenizer: Tokenizer, data: config.Data
) -> dict[str, Any]:
  """A dialogue as the model sees it; lengths count what ends a completion."""
  written = prompt(dialogue, tokenizer, data)
  prefill = pipeline.prefill(tokenizer, data)
  return {
    "id": dialogue.id,
    "tokens": len(tokenizer.encode(written)),
    "prompt": written,
    "completions": [
      {
        "tokens": len(_ended(dialogue.id, text, prefill, tokenizer, data)),
        "text": text,
      }
      for text in dialogue.completions
    ],
  }


def prompt(dialogue: Dialogue, tokenizer: Tokenizer, data: config.Data) -> str:
  """The prompt of a dialogue as text.

  Raises:
    UserError: the chat template refuses it.
  """
  turns = [
    {"role": role, "content": content} for role, content in dialogue.turns
  ]
  if not data.chat:
    return tokenizer.start + plain(turns)
  try:
    return tokenizer.chat(turns, data.thinking)
  except UserError as error:
    raise UserError(f"{dialogue.id}: {error}") from None


def _ended(
  name: str,
  text: str,
  prefill: str,
  tokenizer: Tokenizer,
  data: config.Data,
) -> list[int]:
  """The ids of a completion after its prefill, with what ends it."""
  opened = prefill.rstrip()
  if not text.startswith(opened):
    raise UserError(
      f"{name}: the chat template begins every completion with {opened!r}, and"
      " this one does not: write it with a think part (data.tags=true for"
      " demonstrations made here), or set data.thinking=false if the template"
      " knows that."
    )
  opened = prefill if text.startswith(prefill) else opened
  ids = tokenizer.encode(text.removeprefix(opened))
  return [*ids, tokenizer.end(data.chat)]
