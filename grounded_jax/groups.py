"""Scored groups: what one step learns from, on the host.

A group without advantage teaches nothing when there is no KL term, so with
`zero_advantage=refill` further prompts are drawn until the step has enough
groups that do (DAPO's dynamic sampling, arXiv:2503.14476), up to a cap.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grounded_jax import config, grpo, hosts, sampler, text, types
from grounded_jax.records import Completion, Example, Score

Scorer = Callable[[Sequence[Example], Sequence[Completion]], list[Score]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
  """Completions with their scores; every sequence and array has P entries."""

  examples: tuple[Example, ...]
  prompts: types.PromptBatch
  rollout: types.Rollout
  completions: tuple[tuple[Completion, ...], ...]  # [P][G]
  total: np.ndarray  # [P G]
  parts: dict[str, np.ndarray]  # by name, each [P G]

  def take(self, rows: Sequence[int]) -> "Groups":
    """These rows, in this order."""
    index = np.asarray(rows, int)
    pick = lambda section: type(section)(
      **{name: value[index] for name, value in vars(section).items()}
    )
    return Groups(
      examples=tuple(self.examples[i] for i in rows),
      prompts=pick(self.prompts),
      rollout=pick(self.rollout),
      completions=tuple(self.completions[i] for i in rows),
      total=self.total[index],
      parts={name: value[index] for name, value in self.parts.items()},
    )


def concatenate(several: Sequence[Groups]) -> Groups:
  """All of them, one after another; a part that one lacks is 0 there."""
  widest = max(groups.prompts.tokens.shape[1] for groups in several)
  several = [_padded(groups, widest) for groups in several]
  join = lambda sections: type(sections[0])(
    **{
      name: np.concatenate([vars(s)[name] for s in sections])
      for name in vars(sections[0])
    }
  )
  names = dict.fromkeys(name for groups in several for name in groups.parts)
  return Groups(
    examples=sum((groups.examples for groups in several), ()),
    prompts=join([groups.prompts for groups in several]),
    rollout=join([groups.rollout for groups in several]),
    completions=sum((groups.completions for groups in several), ()),
    total=np.concatenate([groups.total for groups in several]),
    parts={
      name: np.concatenate(
        [g.parts.get(name, np.zeros_like(g.total)) for g in several]
      )
      for name in names
    },
  )


def _padded(groups: Groups, width: int) -> Groups:
  """The groups with their prompts padded to so many tokens."""
  tokens = groups.prompts.tokens
  more = ((0, 0), (0, width - tokens.shape[1]))
  prompts = dataclasses.replace(groups.prompts, tokens=np.pad(tokens, more))
  return dataclasses.replace(groups, prompts=prompts)


def scored(
  examples: Sequence[Example],
  prompts: types.PromptBatch,
  rollout: types.Rollout,
  completions: Sequence[Sequence[Completion]],
  score: Scorer,
) -> Groups:
  """The groups with the score of each completion."""
  p, g, _ = rollout.tokens.shape
  flat = score(
    [example for example in examples for _ in range(g)],
    [completion for group in completions for completion in group],
  )
  names = dict.fromkeys(name for item in flat for name in item.parts)
  shape = lambda values: np.array(values, np.float32).reshape(p, g)
  return Groups(
    examples=tuple(examples),
    prompts=prompts,
    rollout=rollout,
    completions=tuple(tuple(group) for group in completions),
    total=shape([item.total for item in flat]),
    parts={
      name: shape([item.parts.get(name, 0.0) for item in flat])
      for name in names
    },
  )


def gathered(
  own: Groups,
  rows: np.ndarray,
  examples: Sequence[Example],
  prompts: types.PromptBatch,
) -> Groups:
  """The groups of all processes, in the order of their prompts.

  What they hold of a completion is told, since a group that a step keeps may
  be learned from on another host; prompts every process has.

  Args:
    own: the groups of this process.
    rows: which of the prompts they are of.
    examples: of all groups.
    prompts: of all groups.
  """
  told = hosts.every((rows, own.rollout, own.completions, own.total, own.parts))
  if len(told) == 1:
    return own
  whole = concatenate(
    [
      Groups(
        examples=tuple(examples[row] for row in some),
        prompts=prompts_at(prompts, some),
        rollout=rollout,
        completions=completions,
        total=total,
        parts=parts,
      )
      for some, rollout, completions, total, parts in told
    ]
  )
  order = np.argsort(np.concatenate([some for some, *_ in told]))
  return whole.take(order.tolist())


def prompts_at(
  prompts: types.PromptBatch, rows: np.ndarray
) -> types.PromptBatch:
  """These of the prompts."""
  return jax.tree.map(lambda x: x[rows], prompts)


def shuffled(groups: Groups, seed: Sequence[int]) -> Groups:
  """The groups, the scores dealt out anew within each group.

  The control experiment: the same rewards, tied to nothing.
  """
  rng = np.random.default_rng(seed)
  order = rng.permuted(
    np.tile(np.arange(groups.total.shape[1]), (len(groups.examples), 1)), axis=1
  )
  deal = lambda values: np.take_along_axis(values, order, axis=1)
  return dataclasses.replace(
    groups,
    total=deal(groups.total),
    parts={name: deal(values) for name, values in groups.parts.items()},
  )


def weight(cfg: config.GRPO, groups: Groups) -> np.ndarray:
  """Each completion's weight in the loss, [P G]."""
  finished = jnp.asarray(groups.rollout.finished)
  return np.array(grpo.completion_weight(cfg, finished))


def informative(cfg: config.GRPO, groups: Groups) -> np.ndarray:
  """Whether a group has a completion to learn from, [P]."""
  rewards = [groups.total]
  if cfg.combine == "gdpo":  # equal totals may hide parts that differ
    rewards = list(groups.parts.values())
  counted = jnp.asarray(weight(cfg, groups))
  silent = [
    np.asarray(grpo.zero_advantage_groups(jnp.asarray(reward), counted))
    for reward in rewards
  ]
  return ~np.all(silent, axis=0)


def collect(
  cfg: config.GRPO, draw: Callable[[int, int], Groups], cursor: int
) -> tuple[Groups, np.ndarray, Groups, int]:
  """Enough groups for a step.

  Args:
    cfg: how many, and what to do with groups without advantage.
    draw: (cursor, purpose) -> cfg.prompts scored groups.
    cursor: prompts read so far.

  Returns:
    The cfg.prompts groups to learn from; 1 for each of them that counts, 0
    for one that only fills the shape; all groups that were drawn; and the new
    cursor.
  """
  drawn = draw(cursor, sampler.PURPOSE_TRAIN)
  cursor += cfg.prompts
  if cfg.zero_advantage == "keep":
    return drawn, np.ones(cfg.prompts, np.float32), drawn, cursor
  for extra in range(cfg.refill_rounds):
    if informative(cfg, drawn).sum() >= cfg.prompts:
      break
    more = draw(cursor, sampler.PURPOSE_REFILL + extra)
    drawn, cursor = concatenate([drawn, more]), cursor + cfg.prompts
  good = informative(cfg, drawn)
  rows = np.argsort(~good, kind="stable")[: cfg.prompts]
  kept = drawn.take(rows.tolist())
  return kept, good[rows].astype(np.float32), drawn, cursor


def solved(least: float, groups: Groups) -> list[tuple[str, float]]:
  """Each prompt's id, and the share of its completions of such a reward."""
  shares = (groups.total >= least).mean(axis=1)
  return [
    (example.id, float(share))
    for example, share in zip(groups.examples, shares, strict=True)
  ]


def batch(
  cfg: config.GRPO, groups: Groups, counts: np.ndarray, step: int
) -> types.Batch:
  """The arrays that the update learns from, still on the host.

  Args:
    cfg: advantages and weights.
    groups: to learn from.
    counts: 0 for groups that only fill the shape, [P].
    step: updates that the policy had had when it sampled them.
  """
  # Statistics of the batch are those of the groups that count.
  rows = np.flatnonzero(counts)
  advantage = np.zeros_like(groups.total)
  if rows.size:
    parts = {name: jnp.asarray(x[rows]) for name, x in groups.parts.items()}
    total = jnp.asarray(groups.total[rows])
    advantage[rows] = np.asarray(grpo.advantages(cfg, total, parts))
  return types.Batch(
    prompts=groups.prompts,
    rollout=groups.rollout,
    advantage=advantage,
    weight=weight(cfg, groups) * counts[:, None],
    policy_step=np.array(step, np.int32),
  )


def metrics(
  counts: np.ndarray, drawn: Groups, rewards: config.Rewards
) -> dict[str, float]:
  """What a step drew, for the log: means over all completions drawn.

  Over all of them, because those kept are chosen by their rewards.
  """
  flat = [c for group in drawn.completions for c in group]
  answered = np.array(
    [
      not text.is_refusal(
        rewards.refusal_flag, c.answer, rewards.refusal_threshold
      )
      for c in flat
    ]
  ).reshape(drawn.total.shape)
  answerable = np.array([example.answerable for example in drawn.examples])
  out = {
    "reward": drawn.total.mean(),
    **{f"reward/{name}": part.mean() for name, part in drawn.parts.items()},
    "reward_std": drawn.total.std(axis=1).mean(),
    "answered_ratio": answered.mean(),
    "prompt_bucket": drawn.prompts.tokens.shape[1],
    "completion_length": np.mean([c.tokens for c in flat]),
    "truncated": np.mean([not c.finished for c in flat]),
    "answerable": answerable.mean(),
    "groups_drawn": len(drawn.examples),
    "groups_counted": counts.sum(),
    "counted_share": counts.sum() / len(drawn.examples),
  }
  for name, chosen in (("", answerable), ("un", ~answerable)):
    if chosen.any():
      out[f"answered_of_{name}answerable"] = answered[chosen].mean()
  return {name: float(value) for name, value in out.items()}


def rows(groups: Groups) -> Iterator[dict[str, Any]]:
  """One flat record per completion, for people and for rollouts/."""
  for i, example in enumerate(groups.examples):
    for j, completion in enumerate(groups.completions[i]):
      yield {
        "id": example.id,
        "task": example.task,
        "question": example.question,
        "answerable": example.answerable,
        "completion": j,
        "text": completion.text,
        "answer": completion.answer,
        "finished": completion.finished,
        "tokens": completion.tokens,
        "reward": float(groups.total[i, j]),
        "parts": {k: float(v[i, j]) for k, v in groups.parts.items()},
      }
