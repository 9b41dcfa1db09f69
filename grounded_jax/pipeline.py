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

from grounded_jax import config, mixing, ondemand, prompts, types
from grounded_jax.data import pool, sources, support
from grounded_jax.records import Example, UserError
from grounded_jax.tokenizer import Tokenizer

# Array lengths are multiples of this: one shape, one compilation.
_MULTIPLE = 64


def render(example: Example, tokenizer: Tokenizer, data: config.Data) -> str:
  """The prompt as text, special tokens of a chat template spelled out."""
  written = prompts.render(data, example, tokenizer.chat)
  return written if data.chat else tokenizer.start + written


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
  fitted = ondemand.fit_many(
    examples, lambda example: fit(example, tokenizer, data), data.workers
  )
  pairs = [(a, b) for a, (b, _) in zip(examples, fitted, strict=True)]
  return fitted, summary(
    [len(ids) for _, ids in fitted],
    [len(a.docs) - len(b.docs) for a, b in pairs],
    sum(a.answerable and not b.answerable for a, b in pairs),
  )


def summary(lengths: Sequence[int], lost: Sequence[int], flipped: int) -> Fits:
  """Of each prompt its tokens and the passages lost; how many flipped."""
  return Fits(
    prompts=len(lengths),
    longest=max(lengths),
    mean=sum(lengths) / len(lengths),
    shortened=sum(n > 0 for n in lost),
    passages=sum(lost),
    flipped=flipped,
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


class Order(mixing.Fixed):
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


class Prompts:
  """The training prompts of a stage.

  Those of a source that is not in memory are made as they are taken.
  """

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
      order: of what is left; None = shuffled in every epoch, mixed as
        `data.train` says.

    Raises:
      UserError: an order of its own for a source that is mixed or on disk.
    """
    self.fits = None  # not known before each prompt was made
    longest = data.max_prompt_len
    on_disk = isinstance(examples, pool.Kept)
    if order and (on_disk or data.train.mix):
      raise UserError(
        "answerable_share and redraw are for sources in memory that are not"
        " mixed: raise data.train.in_memory, and leave data.train.mix empty."
      )
    if on_disk:
      self._rows = ondemand.Rows(
        examples,
        lambda example: fit(example, tokenizer, data),
        choice=answerable,
        workers=data.workers,
      )
      kinds = examples.datasets, examples.dataset, examples.answerable
    else:
      fitted, self.fits = fit_all(examples, tokenizer, data)
      self._rows = still(fitted, answerable)
      longest = self.fits.longest
      shown = [example for example, _ in self._rows]
      kinds = kinds_of(shown)
    self._length = bucket(longest, data)
    self._buckets = data.buckets
    self.order = (
      order(shown)
      if order
      else ordered(*kinds, data.train, seed, stage, answerable)
    )

  def __len__(self) -> int:
    return len(self._rows)

  def take(
    self, cursor: int, n: int
  ) -> tuple[types.PromptBatch, tuple[Example, ...]]:
    """The prompts at positions cursor .. cursor + n - 1, and their examples.

    A key names example and epoch, so that a prompt that stands twice in a
    batch, where one epoch ends and the next begins, is not sampled alike.
    """
    rows = self._taken(cursor, n)
    batch = pack(
      [row.ids for row, _ in rows],
      [
        key(row.name if epoch == 0 else f"{row.name}/{epoch}")
        for row, epoch in rows
      ],
      shortest(
        max(len(row.ids) for row, _ in rows), self._length, self._buckets
      ),
    )
    return batch, tuple(row.example for row, _ in rows)

  def _taken(self, cursor: int, n: int) -> list[tuple[ondemand.Row, int]]:
    if isinstance(self._rows, ondemand.Rows):
      return self._rows.take(self.order.take, cursor, n)
    out = []
    for which, epoch in self.order.take(cursor, n):
      example, ids = self._rows[which]
      out.append(
        (ondemand.Row(name=example.id, example=example, ids=ids), epoch)
      )
    return out


def kinds_of(
  examples: Sequence[Any],
) -> tuple[list[str], np.ndarray, np.ndarray]:
  """Names of the datasets; each one's place in them, and its answerability.

  Args:
    examples: whatever has a dataset and is answerable or not.
  """
  names = dict.fromkeys(example.dataset for example in examples)
  place = {name: i for i, name in enumerate(names)}
  places = np.array([place[example.dataset] for example in examples])
  return list(names), places, np.array([e.answerable for e in examples])


def ordered(
  names: Sequence[str],
  dataset: np.ndarray,
  flags: np.ndarray,
  source: config.Source,
  seed: int,
  stage: int,
  answerable: str,
) -> Order | mixing.Mixed:
  """The order of a stage's prompts, mixed where the source says so."""
  weights = config.mix(source)
  if not weights:
    return Order(len(dataset), seed, stage)
  groups, shares = {}, {}
  for name, weight in weights.items():
    own = dataset == (names.index(name) if name in names else -1)
    halves = {"": own}
    if answerable == "even":
      halves = {"/answerable": own & flags, "/unanswerable": own & ~flags}
    for half, members in halves.items():
      groups[name + half] = np.flatnonzero(members)
      shares[name + half] = weight / len(halves)
  for name, members in groups.items():
    if not len(members):
      raise UserError(
        f"mix={source.mix!r}: no record of {name} is left to mix."
      )
  seeds = {name: key(f"{seed}/{stage}/{name}") for name in groups}
  return mixing.Mixed(groups, shares, seeds)


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
