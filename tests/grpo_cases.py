"""Rollouts of given log-probabilities, for tests of the GRPO loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from grounded_jax import config, grpo_loss, types

PLAIN = config.GRPO(
  max_new_tokens=8,
  clip_low=0.2,
  clip_high=0.2,
  dual_clip=0.0,
  scale="none",
  zero_advantage="keep",
  truncated="keep",
  mismatch="ignore",
)


def plain(**changes) -> config.GRPO:
  """Returns GRPO with everything optional off, and `changes`."""
  return dataclasses.replace(PLAIN, **changes)


def make_batch(
  logp: np.ndarray,
  advantage,
  *,
  length=None,
  sampler_logp=None,
  old_logp=None,
  ref_logp=None,
  weight=None,
) -> types.Batch:
  """Returns a batch whose completions have these log-probabilities."""
  p, g, c = logp.shape
  length = np.full((p, g), c) if length is None else np.asarray(length)
  sampled = np.arange(c) < length[..., None]
  weight = np.ones((p, g)) if weight is None else np.asarray(weight)
  sampler_logp = logp if sampler_logp is None else sampler_logp
  optional = lambda x: None if x is None else jnp.asarray(x)
  return types.Batch(
    prompts=types.PromptBatch(
      tokens=jnp.zeros((p, 2), jnp.int32),
      length=jnp.full((p,), 2, jnp.int32),
      key=jnp.arange(p),
    ),
    rollout=types.Rollout(
      tokens=jnp.zeros((p, g, c), jnp.int32),
      sampled=jnp.asarray(sampled),
      logp=jnp.where(sampled, sampler_logp, 0.0),
      finished=jnp.ones((p, g), bool),
    ),
    advantage=jnp.asarray(advantage, jnp.float64),
    weight=jnp.asarray(weight, jnp.float64),
    policy_step=jnp.zeros((), jnp.int32),
    old_logp=optional(old_logp),
    ref_logp=optional(ref_logp),
  )


@functools.partial(jax.jit, static_argnames="cfg")
def _evaluate(cfg, logp, batch):
  def share(logp):
    total, tally = grpo_loss.loss(cfg, logp, jnp.zeros_like(logp), batch)
    return total / grpo_loss.denominator(cfg, batch), tally

  return jax.value_and_grad(share, has_aux=True)(logp)


def loss_and_gradient(cfg: config.GRPO, logp, batch: types.Batch):
  """Returns the loss and its gradient with respect to `logp`, as numpy."""
  (loss, _), gradient = _evaluate(cfg, jnp.asarray(logp), batch)
  return float(loss), np.asarray(gradient)


def tally(cfg: config.GRPO, logp, batch: types.Batch) -> grpo_loss.Tally:
  """Returns what the loss reports beside its value."""
  (_, reported), _ = _evaluate(cfg, jnp.asarray(logp), batch)
  return reported


def random_case(seed: int = 0, p: int = 3, g: int = 4, c: int = 6):
  """Returns keyword arrays of a rollout that is well off its policy."""
  rng = np.random.default_rng(seed)
  logp = -rng.exponential(1.0, (p, g, c))
  near = lambda spread: logp + spread * rng.normal(size=logp.shape)
  return {
    "logp": logp,
    "advantage": rng.normal(size=(p, g)),
    "length": rng.integers(1, c + 1, (p, g)),
    "sampler_logp": near(0.3),
    "old_logp": near(0.4),
    "ref_logp": near(0.5),
  }
