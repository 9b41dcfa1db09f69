"""The pieces of the GRPO objective, from log-probabilities to one number.

Each function is one formula and names its source.  Options and their meaning
are those of `config.GRPO`; where TRL has the option, the formula is TRL's
(version 1.16, `GRPOTrainer._compute_loss`).  Nothing here knows a model.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from grounded_jax import config, masked, types


class Tally(NamedTuple):
  """What micro-batches report, in a form that combines over all of them."""

  sums: dict[str, Float[Array, ""]]  # over tokens; each token by its weight
  maxima: dict[str, Float[Array, ""]]


def token_weight(batch: types.Batch) -> Float[Array, "P G C"]:
  """Returns each token's weight in the loss: its completion's, if sampled."""
  return batch.rollout.sampled * batch.weight[..., None]


def importance_ratio(
  cfg: config.GRPO,
  logp: Float[Array, "P G C"],
  old_logp: Float[Array, "P G C"],
  sampled: Bool[Array, "P G C"],
) -> Float[Array, "P G #C"]:
  """Returns policy / old policy, of each token or of the whole completion.

  A completion's ratio is the geometric mean of its tokens' (GSPO,
  arXiv:2507.18071 eq. 7; TRL importance_sampling_level="sequence").
  """
  log_ratio = logp - old_logp
  if cfg.ratio == "sequence":
    log_ratio = masked.mean(log_ratio, sampled, axis=-1)[..., None]
  return jnp.exp(log_ratio)


def clipped_objective(
  cfg: config.GRPO,
  ratio: Float[Array, "P G #C"],
  advantage: Float[Array, "P G 1"],
) -> Float[Array, "P G #C"]:
  """Returns PPO's pessimistic objective: what the loss is the negative of.

  min(r A, clip(r) A) stops the gradient of ratios that already moved far in
  the direction of the advantage, and of those alone: above 1 + clip_high for
  A > 0, below 1 - clip_low for A < 0.  `delta` bounds r in the first term
  (TRL delta, arXiv:2505.07291).  The dual clip keeps the objective of A < 0
  above dual_clip * A (arXiv:1912.09729 eq. 5).
  """
  clipped = jnp.clip(ratio, 1 - cfg.clip_low, 1 + cfg.clip_high)
  bounded = jnp.minimum(ratio, cfg.delta) if cfg.delta else ratio
  objective = jnp.minimum(bounded * advantage, clipped * advantage)
  if not cfg.dual_clip:
    return objective
  floor = cfg.dual_clip * advantage
  return jnp.where(advantage < 0, jnp.maximum(objective, floor), objective)


def cispo_objective(
  cfg: config.GRPO,
  ratio: Float[Array, "P G #C"],
  advantage: Float[Array, "P G 1"],
  logp: Float[Array, "P G C"],
) -> Float[Array, "P G C"]:
  """Returns REINFORCE with a capped weight (CISPO, arXiv:2506.13585 eq. 4).

  The weight carries no gradient: otherwise the product rule would add a term
  in logp whose sign is that of logp, not of the advantage.
  """
  weight = jax.lax.stop_gradient(jnp.minimum(ratio, cfg.cispo_cap))
  return weight * advantage * logp


def kl_term(
  cfg: config.GRPO,
  logp: Float[Array, "P G C"],
  ref_logp: Float[Array, "P G C"],
  ratio: Float[Array, "P G #C"],
) -> Float[Array, "P G C"]:
  """Returns the k3 estimate of KL(policy || reference) at each token.

  exp(d) - d - 1 with d = ref_logp - logp.  k3_weighted multiplies it by the
  ratio, gradient included, which makes the gradient unbiased (DeepSeek-V3.2;
  TRL use_bias_correction_kl).
  """
  difference = ref_logp - logp
  k3 = jnp.exp(difference) - difference - 1
  return k3 * ratio if cfg.kl == "k3_weighted" else k3


def mismatch_weight(
  cfg: config.GRPO,
  learner_logp: Float[Array, "P G C"],
  sampler_logp: Float[Array, "P G C"],
  sampled: Bool[Array, "P G C"],
) -> Float[Array, "P G #C"]:
  """Returns the weight learner / sampler that corrects for who sampled.

  truncate: each token's ratio, at most mismatch_cap.  sequence_mask: the
  completion's ratio (a product, not a mean), or 0 above the cap.  (TRL
  vllm_importance_sampling_mode token_truncate and sequence_mask.)  A token's
  own ratio leaves out that its prefix is another's too, which is a bias; the
  product does not, and varies more.
  """
  difference = jnp.where(sampled, learner_logp - sampler_logp, 0)
  if cfg.mismatch == "truncate":
    return jnp.minimum(jnp.exp(difference), cfg.mismatch_cap)
  if cfg.mismatch == "sequence_mask":
    ratio = jnp.exp(difference.sum(-1, keepdims=True))
    return jnp.where(ratio > cfg.mismatch_cap, 0, ratio)
  return jnp.ones_like(difference)


def denominator(cfg: config.GRPO, batch: types.Batch) -> Float[Array, ""]:
  """Returns what the summed loss is divided by: of the global batch, always.

  token_mean: tokens (DAPO, arXiv:2503.14476 eq. 8).  sequence_mean:
  completions (GRPO, arXiv:2402.03300 eq. 3).  constant: completions times
  max_new_tokens (Dr. GRPO, arXiv:2503.20783).  Completions left out of the
  loss are in none of them.
  """
  if cfg.aggregation == "token_mean":
    return token_weight(batch).sum()
  scale = cfg.max_new_tokens if cfg.aggregation == "constant" else 1
  return batch.weight.sum() * scale


def aggregate(
  cfg: config.GRPO, per_token: Float[Array, "P G C"], batch: types.Batch
) -> Float[Array, ""]:
  """Returns the sum that `denominator` divides."""
  if cfg.aggregation == "sequence_mean":
    per_sequence = masked.mean(per_token, batch.rollout.sampled, axis=-1)
    return masked.sum(per_sequence, batch.weight)
  return masked.sum(per_token, token_weight(batch))


def loss(
  cfg: config.GRPO,
  logp: Float[Array, "P G C"],
  entropy: Float[Array, "P G C"],
  batch: types.Batch,
) -> tuple[Float[Array, ""], Tally]:
  """Returns the sum of the loss over `batch`, not yet divided, and its tally.

  With pi the policy being trained, pi_old what it was before the updates on
  this rollout, q who sampled it, and r = pi / pi_old, a token's share is

    -min(pi_old / q, mismatch_cap) * min(r A, clip(r) A)    (+ beta KL)

  here for mismatch=truncate and surrogate=clip.  The clip range lies around
  the policy that is updated whoever sampled (decoupled PPO, arXiv:2110.00641;
  for rollouts of an older policy as in AReaL, arXiv:2505.24298), and the
  weight has no gradient.  q is pi_old up to rounding or, with
  off_policy_steps, the policy of an update before.  The KL term has no such
  weight, as in TRL.

  Args:
    cfg: which formulas.
    logp: of the completion tokens under the policy being trained.
    entropy: of the distributions they were drawn from; only reported.
    batch: without old_logp this is the first update on its rollout: pi_old is
      pi, every ratio is 1 and the gradient that of the policy gradient.
  """
  sampled = batch.rollout.sampled
  frozen = jax.lax.stop_gradient(logp)
  old_logp = frozen if batch.old_logp is None else batch.old_logp
  advantage = batch.advantage[..., None]
  ratio = importance_ratio(cfg, logp, old_logp, sampled)
  if cfg.surrogate == "cispo":
    objective = cispo_objective(cfg, ratio, advantage, logp)
  else:
    objective = clipped_objective(cfg, ratio, advantage)
  weight = mismatch_weight(cfg, old_logp, batch.rollout.logp, sampled)
  per_token = jnp.broadcast_to(-objective * weight, logp.shape)
  kl = jnp.zeros_like(logp)
  if cfg.beta:
    kl = kl_term(cfg, logp, batch.ref_logp, ratio)
    per_token = per_token + cfg.beta * kl
  total = aggregate(cfg, per_token, batch)
  tally = _tally(
    cfg,
    batch,
    ratio,
    old_logp,
    {"kl": kl, "entropy": entropy, "mismatch_weight": weight},
  )
  tally.sums["loss"] = total
  return total, jax.lax.stop_gradient(tally)


def _tally(
  cfg: config.GRPO,
  batch: types.Batch,
  ratio: Float[Array, "P G #C"],
  old_logp: Float[Array, "P G C"],
  terms: dict[str, Float[Array, "P G #C"]],
) -> Tally:
  advantage = batch.advantage[..., None]
  if cfg.surrogate == "cispo":
    low, high = jnp.zeros_like(ratio), ratio > cfg.cispo_cap
    dual = low
  else:
    low = (ratio < 1 - cfg.clip_low) & (advantage < 0)
    high = (ratio > 1 + cfg.clip_high) & (advantage > 0)
    dual = (ratio > (cfg.dual_clip or jnp.inf)) & (advantage < 0)
  difference = old_logp - batch.rollout.logp
  mismatch = jnp.exp(difference)
  corrected = terms["mismatch_weight"]
  capped = {
    "truncate": corrected >= cfg.mismatch_cap,
    "sequence_mask": corrected == 0,
    "ignore": jnp.zeros_like(corrected),
  }[cfg.mismatch]
  terms = terms | {
    "advantage_abs": jnp.abs(advantage),
    "clip_low": low,
    "clip_high": high,
    "clip_dual": dual,
    "ratio": ratio,
    "mismatch_logp_abs": jnp.abs(difference),
    "mismatch_outside": (mismatch < 0.9) | (mismatch > 1.1),
    # Of KL(sampler || learner); k3 again, never negative.
    "mismatch_kl": mismatch - difference - 1,
    "mismatch_capped": capped,
  }
  weight = token_weight(batch)
  shaped = {
    name: jnp.broadcast_to(x, weight.shape).astype(old_logp.dtype)
    for name, x in terms.items()
  }
  sums = {name: masked.sum(x, weight) for name, x in shaped.items()}
  sums |= {"tokens": weight.sum(), "completions": batch.weight.sum()}
  trained = weight > 0
  maxima = {
    f"{name}_max": jnp.max(shaped[name], where=trained, initial=0.0)
    for name in ("ratio", "mismatch_logp_abs")
  }
  return Tally(sums=sums, maxima=maxima)
