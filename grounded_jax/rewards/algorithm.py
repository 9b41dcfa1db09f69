"""The outcome reward of both stages: the paper's Algorithm 1, with options.

    R = tag_count
    if the layout holds:
      R += format
      answerable, answered:     R += 0.5 (stage 2) + match + citation + surplus
      answerable, refused:      nothing
      unanswerable, refused:    R += refusal similarity (stage 2)
      unanswerable, answered:   nothing as printed; -1 with "ternary"
      R += process

Stage 1 (`cfg.refusal` false) is the same without the refusal terms.  In both a
refusal earns no correctness, whatever follows it.
"""

import dataclasses
from collections.abc import Iterator

from grounded_jax import config, text
from grounded_jax.records import Completion, Example, Score, UserError
from grounded_jax.rewards import correctness, process, statements

PARTS = (
  "tag_count",  # 0..1: share of the four tags that occur exactly once
  "format",  # 1 when the layout holds
  "match",  # gold answers stated
  "citation",  # their citations: as much again, or as much less
  "surplus",  # statements beyond those: less, never below nothing earned
  "process",  # the think part entails the decision (ablation)
  "refusal",  # 0.5 for answering the answerable; similarity for refusing
  "unanswerable",  # -1 for answering the unanswerable ("ternary")
  "overlong",  # 0..-1: too close to the length limit
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
  """What a completion says, before the verifier is asked."""

  tag_count: float
  holds: bool  # the layout, or none is asked for
  similarity: float  # r_score of the answer part, 0..1
  refused: bool
  said: tuple[statements.Statement, ...] = ()  # only where it counts
  decision: statements.Pair | None = None  # think part, decision

  @property
  def pairs(self) -> Iterator[statements.Pair]:
    """Every pair that `total` looks up."""
    for statement in self.said:
      yield from statement.pairs
    if self.decision:
      yield self.decision


def read(cfg: config.Rewards, example: Example, c: Completion) -> Reading:
  """A completion taken apart: all that needs no verifier."""
  tag_count, holds = 1.0, True  # constants without tags
  if cfg.tags:
    layout = text.split_layout(c.text)
    tag_count, holds = layout.tag_count, layout.holds
  similarity = text.refusal_similarity(cfg.refusal_flag, c.answer)
  refused = similarity > cfg.refusal_threshold
  reading = Reading(
    tag_count=tag_count,
    holds=holds,
    similarity=similarity / 100,
    refused=refused,
  )
  if holds and example.answerable and not refused:
    said = statements.read(cfg, example, c.answer)
    reading = dataclasses.replace(reading, said=said)
  if holds and cfg.process and c.think:
    pair = process.decision(c, refused)
    reading = dataclasses.replace(reading, decision=pair)
  return reading


def total(
  cfg: config.Rewards,
  example: Example,
  completion: Completion,
  reading: Reading,
  entails: correctness.Entails,
  max_tokens: int,
) -> Score:
  """The reward of one completion: every part of `PARTS`, and their sum."""
  parts = dict.fromkeys(PARTS, 0.0)
  parts["overlong"] = overlong(cfg.overlong, completion.tokens, max_tokens)
  parts["tag_count"] = reading.tag_count
  if reading.holds:
    parts["format"] = 1.0
    if example.answerable and not reading.refused:
      parts["refusal"] = 0.5 if cfg.refusal else 0.0
      golds = len(statements.supported(example))
      parts |= correctness.score(
        cfg, example.task, golds, reading.said, entails
      )
    elif reading.refused and not example.answerable:
      parts["refusal"] = reading.similarity if cfg.refusal else 0.0
    elif cfg.refusal:
      parts |= _wrong_choice(cfg, example)
    if reading.decision and entails(reading.decision):
      parts["process"] = cfg.process
  return Score(total=sum(parts.values()), parts=parts)


def _wrong_choice(cfg: config.Rewards, example: Example) -> dict[str, float]:
  """Answering the unanswerable, or refusing the answerable.

  "format" leaves both at the format's points; "ternary" (TruthRL) takes 1
  from the former; "gated" (GRACE) leaves both only the tag count.
  """
  if cfg.unanswerable == "gated":
    return {"format": 0.0}
  if cfg.unanswerable == "ternary" and not example.answerable:
    return {"unanswerable": -1.0}
  return {}


def overlong(margin: int, tokens: int, max_tokens: int) -> float:
  """The soft overlong punishment, in tokens (DAPO, arXiv:2503.14476, Eq. 13).

  0 up to `margin` tokens before the limit, then linear to -1 at the limit.

  Raises:
    UserError: there is a margin, but no limit above it.
  """
  if not margin:
    return 0.0
  if max_tokens <= margin:
    raise UserError(
      f"rewards.overlong={margin} needs a larger limit of new tokens, not"
      f" {max_tokens}."
    )
  return -min(max((tokens - (max_tokens - margin)) / margin, 0.0), 1.0)
