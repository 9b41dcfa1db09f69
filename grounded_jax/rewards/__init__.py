"""Verifiable outcome rewards: pure functions of an example and a completion."""

from collections.abc import Sequence

from grounded_jax import config, text
from grounded_jax.records import Completion, Example, Score
from grounded_jax.rewards import algorithm
from grounded_jax.rewards.algorithm import PARTS
from grounded_jax.verifiers import Verifier

__all__ = ("PARTS", "completion", "score", "score_batch")


def completion(
  written: str,
  *,
  finished: bool = True,
  tokens: int = 0,
  prefill: str = "",
  tags: bool = True,
) -> Completion:
  """A sampled text taken apart, as rewards and metric read it.

  Args:
    written: what the policy wrote.
    finished: it ended by EOS, not cut by length.
    tokens: sampled tokens, EOS included.
    prefill: what the chat template wrote before it, such as "<think>".
    tags: the layout is asked for; False: all of the text is the answer.
  """
  whole = prefill + written
  layout = text.split_layout(whole)
  return Completion(
    text=whole,
    answer=layout.answer if tags else whole.strip(),
    think=layout.think if tags else "",
    finished=finished,
    tokens=tokens,
  )


def score(
  example: Example,
  completion: Completion,
  cfg: config.Rewards,
  verifier: Verifier,
  *,
  max_tokens: int = 0,
) -> Score:
  """The reward of one completion; see `score_batch`."""
  batch = score_batch(
    [example], [completion], cfg, verifier, max_tokens=max_tokens
  )
  return batch[0]


def score_batch(
  examples: Sequence[Example],
  completions: Sequence[Completion],
  cfg: config.Rewards,
  verifier: Verifier,
  *,
  max_tokens: int = 0,
) -> list[Score]:
  """The reward of each completion; the verifier is asked once, for them all.

  Args:
    examples: the example of each completion.
    completions: as many.
    cfg: which reward.
    verifier: called with every (premise, hypothesis) of the rollout, no pair
      twice; not called when there is none.
    max_tokens: the limit of sampled tokens; read by the overlong penalty.
  """
  readings = [
    algorithm.read(cfg, example, c)
    for example, c in zip(examples, completions, strict=True)
  ]
  pairs = dict.fromkeys(pair for reading in readings for pair in reading.pairs)
  if pairs:
    premises, hypotheses = zip(*pairs, strict=True)
    answers = verifier(list(premises), list(hypotheses))
    pairs = dict(zip(pairs, map(bool, answers), strict=True))
  return [
    algorithm.total(cfg, example, c, reading, pairs.__getitem__, max_tokens)
    for example, c, reading in zip(examples, completions, readings, strict=True)
  ]
