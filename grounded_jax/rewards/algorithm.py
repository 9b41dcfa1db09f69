"""The outcome reward of both stages: the paper's Algorithm 1, with options.

    R = tag_count
    if the layout holds:
      R += format
      answerable, answered:     R += 0.5 (stage 2) + match + citation
      answerable, refused:      nothing
      unanswerable, refused:    R += refusal similarity (stage 2)
      unanswerable, answered:   nothing as printed; -1 with "ternary"

Stage 1 (`cfg.refusal` false) is the same without the refusal terms.  In both a
refusal earns no correctness, whatever follows it.
"""

from grounded_jax import config, text
from grounded_jax.records import Completion, Example, Score, UserError
from grounded_jax.rewards import correctness

PARTS = (
  "tag_count",  # 0..1: share of the four tags that occur exactly once
  "format",  # 1 when the layout holds
  "match",  # gold answers stated
  "citation",  # their citations: as much again, or as much less
  "refusal",  # 0.5 for answering the answerable; similarity for refusing
  "unanswerable",  # -1 for answering the unanswerable ("ternary")
  "overlong",  # 0..-1: too close to the length limit
)


def answers(cfg: config.Rewards, example: Example, c: Completion) -> bool:
  """Whether correctness is judged: an answer where there is one to give."""
  return example.answerable and _layout(cfg, c)[1] and not _refuses(cfg, c)[1]


def total(
  cfg: config.Rewards,
  example: Example,
  completion: Completion,
  entails: correctness.Entails,
  max_tokens: int,
) -> Score:
  """The reward of one completion: every part of `PARTS`, and their sum."""
  parts = dict.fromkeys(PARTS, 0.0)
  parts["overlong"] = overlong(cfg.overlong, completion.tokens, max_tokens)
  parts["tag_count"], holds = _layout(cfg, completion)
  if holds:
    parts["format"] = 1.0
    similarity, refused = _refuses(cfg, completion)
    if example.answerable and not refused:
      parts["refusal"] = 0.5 if cfg.refusal else 0.0
      parts["match"], parts["citation"] = correctness.score(
        cfg, example, completion.answer, entails
      )
    elif refused and not example.answerable:
      parts["refusal"] = similarity if cfg.refusal else 0.0
    elif cfg.refusal:
      parts |= _wrong_choice(cfg, example)
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


def _layout(cfg: config.Rewards, completion: Completion) -> tuple[float, bool]:
  """R_tag_count, and whether the gate opens; constants without tags."""
  if not cfg.tags:
    return 1.0, True
  layout = text.split_layout(completion.text)
  return layout.tag_count, layout.holds


def _refuses(cfg: config.Rewards, completion: Completion) -> tuple[float, bool]:
  """r_score (0..1) of the answer part, and whether it is a refusal."""
  similarity = text.refusal_similarity(cfg.refusal_flag, completion.answer)
  return similarity / 100, similarity > cfg.refusal_threshold


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
