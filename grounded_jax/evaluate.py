"""TRUST-SCORE of a policy on a set of questions.

The headline numbers come from a verifier that is never the one used as
reward; the reward's own opinion stands beside them, with the gap between the
two: a policy that learns to please its reward alone widens it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grounded_jax import config, pipeline, sampler, scoring, trust_score
from grounded_jax import policy as policy_lib
from grounded_jax.inputs import Fitted
from grounded_jax.records import Completion, Example


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
  """An evaluation: what goes to JSON, and the outputs that it scored."""

  metrics: dict[str, Any]
  records: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
  """What the policy wrote about one example."""

  example: Example  # as the prompt shows it
  prompt: list[int]  # token ids
  completion: Completion


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
  completions = [item.completion for item in answered]
  prompts = [item.prompt for item in answered]
  records = [scoring.record(x.example, x.completion) for x in answered]
  options = {
    "splitter": cfg.splitter,
    "bootstrap": cfg.bootstrap,
    "refusal_flag": rewards.refusal_flag,
    "refusal_threshold": rewards.refusal_threshold,
  }
  metrics = scoring.score(records, cfg.headline, **options)
  rewarded = scoring.score(
    records, rewards.verifier, **(options | {"bootstrap": 0})
  )
  metrics["reward_verifier"] = {
    name: rewarded[name] for name in trust_score.METRICS
  } | {"verifier": scoring.describe(rewards.verifier)}
  metrics["verifier_gap"] = rewarded["f1_gc"] - metrics["f1_gc"]
  metrics["extras"] |= {
    "completion_tokens": float(np.mean([c.tokens for c in completions])),
    "finished_ratio": 100 * float(np.mean([c.finished for c in completions])),
    "prompt_tokens": float(np.mean([len(ids) for ids in prompts])),
  }
  metrics["meta"] |= {
    "decoding": {
      "temperature": cfg.temperature,
      "top_p": cfg.top_p,
      "max_new_tokens": cfg.max_new_tokens,
      "seed": seed,
    },
    "hashes": {
      "data": scoring.digest([scoring.bare(r) for r in records]),
      "prompt": scoring.digest(prompts),
      "model": fingerprint(policy.whole(params)),
    },
  }
  return Result(metrics=metrics, records=records)


def answers(
  policy: policy_lib.Policy,
  params: Any,
  fitted: Fitted,
  cfg: config.Eval,
  *,
  data: config.Data,
  seed: int,
) -> list[Answer]:
  """The policy's answer to each prompt, in batches of `cfg.batch`."""
  length = pipeline.bucket(max(len(ids) for _, ids in fitted), data)
  keys = [pipeline.key(example.id) for example, _ in fitted]
  batch = min(cfg.batch, len(fitted))
  batch += -batch % policy.ways
  out = []
  for start in range(0, len(fitted), batch):
    rows = list(range(start, min(start + batch, len(fitted))))
    # The last batch repeats a prompt: one shape, one compilation.
    filled = rows + rows[-1:] * (batch - len(rows))
    prompts = pipeline.pack(
      [fitted[i][1] for i in filled], [keys[i] for i in filled], length
    )
    rollout = policy_lib.draw(
      policy,
      params,
      prompts,
      seed=seed,
      stage=0,
      step=0,
      purpose=sampler.PURPOSE_EVAL,
      group=1,
      max_new_tokens=cfg.max_new_tokens,
      temperature=cfg.temperature,
      top_p=cfg.top_p,
    )
    texts = policy_lib.completions(policy, rollout, data)
    for i, group in zip(rows, texts, strict=False):
      example, ids = fitted[i]
      out.append(Answer(example=example, prompt=ids, completion=group[0]))
  return out


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
