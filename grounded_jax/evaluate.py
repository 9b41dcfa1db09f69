"""TRUST-SCORE of a policy on a set of questions.

The headline numbers come from a verifier that is never the one used as
reward; the reward's own opinion stands beside them, with the gap between the
two: a policy that learns to please its reward alone widens it.
"""

import bisect
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from grounded_jax import (
  config,
  consistency,
  hosts,
  pipeline,
  sampler,
  scoring,
  selective,
  stops,
  text,
  trust_score,
  types,
  verifiers,
)
from grounded_jax import policy as policy_lib
from grounded_jax.inputs import Fitted
from grounded_jax.records import Completion, Example


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
  """An evaluation: what goes to JSON, and the outputs that it scored."""

  metrics: dict[str, Any]
  records: list[dict[str, Any]]
  rows: list[dict[str, Any]]  # what each contributes, by the headline verifier


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
  """What the policy wrote about one example."""

  example: Example  # as the prompt shows it
  prompt: list[int]  # token ids
  completion: Completion
  confidence: float  # mean log-probability of the answer's tokens


def run(
  policy: policy_lib.Policy,
  params: Any,
  fitted: Fitted,
  cfg: config.Eval,
  *,
  data: config.Data,
  rewards: config.Rewards,
  seed: int,
) -> Result:
  """Answers every example and scores the answers.

  Args:
    policy: the decoder and its tokenizer.
    params: its parameters.
    fitted: each example as its prompt shows it, and the prompt.
    cfg: decoding, the headline verifier, the intervals.
    data: how examples become prompts.
    rewards: whose verifier is compared with the headline's.
    seed: of sampled decoding.
  """
  answered = answers(policy, params, fitted, cfg, data=data, seed=seed)
  records = [scoring.record(x.example, x.completion) for x in answered]
  judge = hosts.Shared(verifiers.make(cfg.headline))
  metrics, rows = scores(records, cfg, rewards, judge)
  metrics["extras"] |= beside(answered, records, rows, cfg, judge)
  metrics["meta"] |= {
    "decoding": {
      "temperature": cfg.temperature,
      "top_k": cfg.top_k,
      "top_p": cfg.top_p,
      "min_p": cfg.min_p,
      "stop": cfg.stop,
      "max_new_tokens": cfg.max_new_tokens,
      "seed": seed,
    },
    "hashes": {
      "data": scoring.digest([scoring.bare(r) for r in records]),
      "prompt": scoring.digest([item.prompt for item in answered]),
      "model": fingerprint(policy.whole(params)),
    },
  }
  stored = [
    record | {"confidence": item.confidence}
    for record, item in zip(records, answered, strict=True)
  ]
  return Result(metrics=metrics, records=stored, rows=rows)


def scores(
  records: Sequence[dict[str, Any]],
  cfg: config.Eval,
  rewards: config.Rewards,
  judge: verifiers.Metered,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """The headline's scores and rows, and what the reward's verifier says.

  A gap is the reward verifier's number minus the headline's: `verifier_gap`
  of F1_GC, which verifiers decide, `verifier_gap_f1_ac` and
  `verifier_gap_trust`.
  """
  options = {
    "splitter": cfg.splitter,
    "refusal_flag": rewards.refusal_flag,
    "refusal_threshold": rewards.refusal_threshold,
  }
  metrics = scoring.score(records, judge, bootstrap=cfg.bootstrap, **options)
  rewarder = hosts.Shared(verifiers.make(rewards.verifier))
  rewarded = scoring.score(records, rewarder, bootstrap=0, **options)
  metrics["reward_verifier"] = {
    name: rewarded[name] for name in trust_score.METRICS
  } | {"verifier": scoring.describe(rewards.verifier)}
  gap = lambda name: rewarded[name] - metrics[name]
  metrics["verifier_gap"] = gap("f1_gc")
  metrics["verifier_gap_f1_ac"] = gap("f1_ac")
  metrics["verifier_gap_trust"] = gap("trust")
  rows = trust_score.per_record(
    records,
    verifier=judge,
    **(options | {"splitter": text.splitter(cfg.splitter)}),
  )
  return metrics, rows


def beside(
  answered: Sequence[Answer],
  records: Sequence[dict[str, Any]],
  rows: Sequence[dict[str, Any]],
  cfg: config.Eval,
  judge: verifiers.Verifier,
) -> dict[str, Any]:
  """What stands beside TRUST: lengths, consistency, risk and coverage."""
  completions = [item.completion for item in answered]
  return {
    "completion_tokens": float(np.mean([c.tokens for c in completions])),
    "finished_ratio": 100 * float(np.mean([c.finished for c in completions])),
    "prompt_tokens": float(np.mean([len(item.prompt) for item in answered])),
    **consistency.measure(records, rows, judge),
    "risk_coverage": selective.risk_coverage(
      [item.confidence for item in answered],
      rows,
      [item.example.id for item in answered],
      bootstrap=cfg.bootstrap,
    ),
  }


def answers(
  policy: policy_lib.Policy,
  params: Any,
  fitted: Fitted,
  cfg: config.Eval,
  *,
  data: config.Data,
  seed: int,
) -> list[Answer]:
  """The policy's answer to each prompt, in batches of `cfg.batch`.

  Each process reads those of its own rows, and tells the others.
  """
  length = pipeline.bucket(max(len(ids) for _, ids in fitted), data)
  keys = [pipeline.key(example.id) for example, _ in fitted]
  batch = min(cfg.batch, len(fitted))
  batch += -batch % policy.layout.ways
  weights = policy.for_sampling(params)
  stop = stops.parse(cfg.stop)
  written = {}  # of each prompt: the completion and its confidence
  for start in range(0, len(fitted), batch):
    rows = list(range(start, min(start + batch, len(fitted))))
    # The last batch repeats a prompt: one shape, one compilation.
    filled = rows + rows[-1:] * (batch - len(rows))
    prompts = pipeline.pack(
      [fitted[i][1] for i in filled], [keys[i] for i in filled], length
    )
    begun = policy_lib.begin(
      policy,
      weights,
      prompts,
      seed=seed,
      stage=0,
      step=0,
      purpose=sampler.PURPOSE_EVAL,
      group=1,
      max_new_tokens=cfg.max_new_tokens,
      temperature=cfg.temperature,
      top_k=cfg.top_k,
      top_p=cfg.top_p,
      min_p=cfg.min_p,
    )
    own, rollout = policy_lib.fetch(policy, begun, stop)
    texts = policy_lib.completions(policy, rollout, data, stop)
    for at, row in enumerate(own.tolist()):
      if row < len(rows):
        sure = _sure(policy, rollout, at)
        written[rows[row]] = (texts[at][0], sure)
  for told in hosts.every(written):
    written |= told
  return [
    Answer(
      example=example,
      prompt=ids,
      completion=written[i][0],
      confidence=written[i][1],
    )
    for i, (example, ids) in enumerate(fitted)
  ]


def _sure(policy: policy_lib.Policy, rollout: types.Rollout, row: int) -> float:
  """The confidence of a prompt's only completion."""
  sampled = rollout.sampled[row, 0]
  return confidence(
    rollout.tokens[row, 0][sampled].tolist(),
    rollout.logp[row, 0][sampled],
    policy.tokenizer.decode,
  )


def confidence(
  tokens: Sequence[int],
  logp: Float[np.ndarray, " C"],
  decode: Callable[[Sequence[int]], str],
) -> float:
  """The mean log-probability of the tokens after "<answer>".

  Of all tokens where there is no such tag, or nothing after it.
  """
  opened = lambda k: text.TAGS[2] in decode(tokens[: k + 1])
  first = bisect.bisect_left(range(len(tokens)), True, key=opened) + 1
  return float(np.mean(logp[first:] if first < len(tokens) else logp))


@jax.jit
def _mixed(leaf: jax.Array) -> jax.Array:
  """Two wrapping sums over a leaf's bits: the same under any sharding."""
  bits = leaf.astype(jnp.float32).view(jnp.uint32)
  index = jnp.zeros(leaf.shape, jnp.uint32)
  for axis, size in enumerate(leaf.shape):
    place = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    index = index * jnp.uint32(size) + place
  odd = index * jnp.uint32(2654435761) | jnp.uint32(1)
  spread = (bits ^ (bits >> 15)) * jnp.uint32(2246822519)
  return jnp.stack([(bits * odd).sum(), (spread ^ odd).sum()])


def fingerprint(params: Any) -> str:
  """A short hash of the parameters, computed where they lie."""
  sums = jax.device_get(jax.tree.map(_mixed, params))
  return scoring.digest([leaf.tolist() for leaf in jax.tree.leaves(sums)])
