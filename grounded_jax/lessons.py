"""Endless lessons in the embedded world: how its warm-start policy was made.

Lesson k is a function of (seed, stage, k): a question from a world of its own,
so that no fact ever recurs, with one demonstration of the whole answer, some
recitals and some drills, which share the prompt.
"""

import dataclasses
import math
import random

import numpy as np

from grounded_jax import config, pipeline, types
from grounded_jax.data import warmstart, world
from grounded_jax.records import Example
from grounded_jax.tokenizer import Tokenizer

_HABITS = {"clean": warmstart.CLEAN, "careless": warmstart.SLOPPY}
KINDS = tuple(_HABITS)  # of demonstrations
_QUERIES = 8  # per drill, cut at `max_new_tokens`


class Lessons:
  """Prompts with G demonstrations each, in an order without end."""

  def __init__(
    self,
    tokenizer: Tokenizer,
    data: config.Data,
    sft: config.SFT,
    seed: int,
    stage: int,
  ):
    self._tokenizer = tokenizer
    self._data = data
    self._sft = sft
    self._name = f"{seed}/{stage}"
    # The share of a full prompt that so many passages take.
    passages = sft.passages or data.passages
    share = min((passages + 1) / (data.passages + 1), 1)
    self._length = _rounded(math.ceil(data.max_prompt_len * share))

  def take(self, cursor: int, n: int) -> types.SFTBatch:
    """The batch of lessons cursor .. cursor + n - 1."""
    g, c = self._sft.group, self._sft.max_new_tokens
    tokens = np.zeros((n, g, c), np.int32)
    weight = np.zeros((n, g, c), np.float32)
    prompts = []
    for p in range(n):
      rng = random.Random(f"{self._name}/{cursor + p}")
      example = self._example(rng, cursor + p)
      prompts.append(pipeline.fit(example, self._tokenizer, self._data)[1])
      for i, lesson in enumerate(self._lessons(example, rng)):
        ids, taught = self._encode(lesson)
        tokens[p, i, : len(ids)] = ids
        weight[p, i, : len(ids)] = taught
    keys = range(cursor, cursor + n)
    longest = _rounded(max(map(len, prompts)))
    return types.SFTBatch(
      prompts=pipeline.pack(prompts, keys, max(self._length, longest)),
      tokens=tokens,
      weight=weight,
    )

  def _example(self, rng: random.Random, k: int) -> Example:
    # Any index: it decides the task and where the evidence stands.
    pair = world.World(f"{self._name}/{k}").pair(rng.randrange(30))
    example = pair[rng.randrange(2)]
    passages = self._sft.passages or self._data.passages
    return with_passages(example, passages, rng)

  def _lessons(
    self, example: Example, rng: random.Random
  ) -> list[warmstart.Demonstration]:
    sft = self._sft
    habits = _HABITS[sft.demonstrations]
    recitals = [warmstart.recital(example, rng) for _ in range(sft.recitals)]
    drills = [
      warmstart.drill(example, rng, _QUERIES, sft.mixed)
      for _ in range(sft.group - 1 - sft.recitals)
    ]
    return [warmstart.demonstration(example, rng, habits), *recitals, *drills]

  def _encode(
    self, lesson: warmstart.Demonstration
  ) -> tuple[list[int], list[bool]]:
    """Token ids and which of them are trained, cut at the limit."""
    ids, taught = [], []
    for text, trained in lesson.pieces:
      piece = self._tokenizer.encode(text)
      ids += piece
      taught += [trained] * len(piece)
    if lesson.ends:
      ids.append(self._tokenizer.end(self._data.chat))
      taught.append(True)
    limit = self._sft.max_new_tokens
    return ids[:limit], taught[:limit]


def _rounded(length: int) -> int:
  return -(-length // 8) * 8


def with_passages(example: Example, n: int, rng: random.Random) -> Example:
  """The example with `n` of its passages, in another order if fewer.

  Evidence is kept first, so that an answerable example stays one.
  """
  if n >= len(example.docs):
    return example
  evidence = [i for i, d in enumerate(example.docs) if any(d.answers_found)]
  kept = rng.sample(evidence, min(len(evidence), max(n - 1, 1)))
  others = [i for i in range(len(example.docs)) if i not in kept]
  kept += rng.sample(others, n - len(kept))
  rng.shuffle(kept)
  return dataclasses.replace(example, docs=tuple(example.docs[i] for i in kept))
