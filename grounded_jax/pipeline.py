"""Examples to token arrays, in an order that a cursor alone determines.

Position k of a stage's endless, epoch-shuffled order is a function of
(seed, stage, k): a run that resumes at a cursor draws what the unbroken one
would, on any number of processes.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grain
import numpy as np

from grounded_jax import config, prompts, types
from grounded_jax.data import sources, support
from grounded_jax.records import Example, UserError
from grounded_jax.tokenizer import Tokenizer

# Array lengths are multiples of this: one shape, one compilation.
_MULTIPLE = 64


def render(example: Example, tokenizer: Tokenizer, data: config.Data) -> str:
  """The prompt as text, special tokens of a chat template spelled out."""
  return prompts.render(data, example, tokenizer.chat)


def prefill(tokenizer: Tokenizer, data: config.Data) -> str:
  """What a prompt's template wrote of the completion, "<think>\n" perhaps."""
  # A base model's prompt goes through no template, so none wrote a prefill.
  return tokenizer.prefill(data.thinking) if data.chat else ""


def fit(
  example: Example, tokenizer: Tokenizer, data: config.Data
) -> tuple[Example, list[int]]:
  """The example as it is shown, and its prompt's ids: `max_prompt_len` at most.

  A longer prompt loses whole passages from the end, never the question, and is
  answerable only if a passage that is left holds an answer.

  Raises:
    UserError: it is too long with `too_long="error"`, or with one passage.
  """
  shown = example
  while True:
    ids = tokenizer.encode(render(shown, tokenizer, data))
    if len(ids) <= data.max_prompt_len:
      return shown, ids
    if data.too_long == "error" or len(shown.docs) <= 1:
      raise UserError(
        f"The prompt of the record {example.id!r} has {len(ids)} tokens with"
        f" {len(shown.docs)} of its passages, more than data.max_prompt_len="
        f"{data.max_prompt_len}: raise it"
        + (
          "."
          if data.too_long == "drop"
          else " or set data.too_long=drop to leave out its last passages."
        )
      )
    docs = shown.docs[:-1]
    shown = dataclasses.replace(
      shown, docs=docs, answerable=support.answerable(docs)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fits:
  """What fitting prompts into `max_prompt_len` did."""

  prompts: int
  longest: int  # tokens
  mean: float  # tokens
  shortened: int  # examples that lost passages
  passages: int  # passages lost
  flipped: int  # examples that are no longer answerable


def fit_all(
  examples: Iterable[Example], tokenizer: Tokenizer, data: config.Data
) -> tuple[list[tuple[Example, list[int]]], Fits]:
  """Every example's `fit`, and what it did to them.

  Raises:
    UserError: there is no example, or one does not fit.
  """
  examples = list(examples)
  if not examples:
    raise UserError("There are no examples to make prompts of.")
  fitted = [fit(example, tokenizer, data) for example in examples]
  lengths = [len(ids) for _, ids in fitted]
  pairs = [(a, b) for a, (b, _) in zip(examples, fitted, strict=True)]
  lost = [len(a.docs) - len(b.docs) for a, b in pairs]
  return fitted, Fits(
    prompts=len(fitted),
    longest=max(lengths),
    mean=sum(lengths) / len(lengths),
    shortened=sum(n > 0 for n in lost),
    passages=sum(lost),
    flipped=sum(a.answerable and not b.answerable for a, b in pairs),
  )


def bucket(longest: int, data: config.Data) -> int:
  """The length of arrays whose longest prompt has so many tokens."""
  return min(-(-longest // _MULTIPLE) * _MULTIPLE, data.max_prompt_len)


def shortest(longest: int, whole: int, parts: int) -> int:
  """The least of `parts` lengths up to `whole` that holds so many tokens."""
  step = -(-whole // (parts * _MULTIPLE)) * _MULTIPLE
  return min(-(-longest // step) * step, whole)


def key(name: str) -> int:
  """31 bits that stand for a prompt's name wherever it is drawn."""
  digest = hashlib.sha256(name.encode()).digest()
  return int.from_bytes(digest[:4], "big") >> 1


def pack(
  ids: Sequence[Sequence[int]], keys: Sequence[int], length: int
) -> types.PromptBatch:
  """The prompts as one host batch, right-padded to `length`."""
  tokens = np.zeros((len(ids), length), np.int32)
  for row, prompt in zip(tokens, ids, strict=True):
    row[: len(prompt)] = prompt
  return types.PromptBatch(
    tokens=tokens,
    length=np.array([len(prompt) for prompt in ids], np.int32),
    key=np.array(keys, np.int32),
  )


class Order:
  """The endless, epoch-shuffled order of `size` things."""

  def __init__(self, size: int, seed: int, stage: int, name: str = ""):
    self._size = size
    self._order = (
      grain.MapDataset.range(size)
      .seed(key(f"{seed}/{stage}{name}"))
      .shuffle()
      .repeat()
    )

  def take(self, cursor: int, n: int) -> list[tuple[int, int]]:
    """(which, epoch) at positions cursor .. cursor + n - 1."""
    positions = range(cursor, cursor + n)
    return [(int(self._order[k]), k // self._size) for k in positions]

  def observe(
    self, cursor: int, solved: Sequence[tuple[str, float]]
  ) -> dict[str, float]:
    """Takes note of what the prompts before `cursor` showed: nothing here.

    Args:
      cursor: prompts read so far.
      solved: the id of each prompt of a step, and the share of its completions
        that solve it.

    Returns:
      Numbers for the log.
    """
    del cursor, solved
    return {}

  def state(self) -> dict[str, Any] | None:
    """What a checkpoint keeps beside the cursor, as JSON; None = nothing."""
    return None

  def restore(self, state: dict[str, Any] | None) -> None:
    """Goes on with what `state` gave."""


class Prompts:
  """The training prompts of a stage."""

  def __init__(
    self,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    data: config.Data,
    seed: int,
    stage: int,
    answerable: str = "any",
    order: Callable[[Sequence[Example]], Order] | None = None,
  ):
    """Fits the examples, then drops those that `answerable` now excludes.

    Args:
      examples: all of them.
      tokenizer: of the model.
      data: how prompts are made.
      seed: of the order.
      stage: of the order.
      answerable: which examples are kept.
      order: of what is left; None = all of them, shuffled in every epoch.
    """
    fitted, self.fits = fit_all(examples, tokenizer, data)
    self._fitted = still(fitted, answerable)
    self._length = bucket(self.fits.longest, data)
    self._buckets = data.buckets
    self.order = (
      order([example for example, _ in self._fitted])
      if order
      else Order(len(self._fitted), seed, stage)
    )

  def __len__(self) -> int:
    return len(self._fitted)

  def take(
    self, cursor: int, n: int
  ) -> tuple[types.PromptBatch, tuple[Example, ...]]:
    """The prompts at positions cursor .. cursor + n - 1, and their examples.

    A key names example and epoch, so that a prompt that stands twice in a
    batch, where one epoch ends and the next begins, is not sampled alike.
    """
    taken = self.order.take(cursor, n)
    rows = [self._fitted[which] for which, _ in taken]
    batch = pack(
      [ids for _, ids in rows],
      [
        key(example.id if epoch == 0 else f"{example.id}/{epoch}")
        for (example, _), (_, epoch) in zip(rows, taken, strict=True)
      ],
      shortest(max(len(ids) for _, ids in rows), self._length, self._buckets),
    )
    return batch, tuple(example for example, _ in rows)


def still(fitted: list[tuple[Example, list[int]]], answerable: str):
  """Those of the fitted examples that the choice `answerable` keeps."""
  if answerable == "any":
    return fitted
  kept, _ = sources.select([e for e, _ in fitted], answerable=answerable)
  names = {example.id for example in kept}
  if not names:
    raise UserError(
      f"No prompt is left for answerable={answerable} once passages are dropped"
      " to fit data.max_prompt_len: raise it."
    )
  return [(example, ids) for example, ids in fitted if example.id in names]
