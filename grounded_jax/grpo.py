"""Group-relative policy optimisation: advantages, and the update.

GRPO (arXiv:2402.03300) with the options of `config.GRPO`; the formulas of the
loss are in `grpo_loss`.  Two things differ from most implementations: the
prompt is computed once for its G completions, and every denominator is that
of the global batch, so that neither micro-batches nor devices change the loss.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from grounded_jax import config, grpo_loss, logp, lora, masked, optim, types
from grounded_jax import packing as packing_lib

_STD_EPS = 1e-4  # added to a std before dividing by it, as TRL does
_ZERO_STD = 1e-6  # a group whose rewards differ by less teaches nothing


def advantages(
  cfg: config.GRPO,
  total: Float[types.Array, "P G"],
  parts: dict[str, Float[types.Array, "P G"]] | None = None,
  weights: dict[str, float] | None = None,
) -> Float[Array, "P G"]:
  """Returns how much better each completion is than its group.

  Args:
    cfg: baseline, scale and combine are read.
    total: rewards of the whole global batch.
    parts: the named parts of the rewards; read by combine=gdpo alone.
    weights: of the parts after they are normalised; 1 where not named.
  """
  if cfg.combine == "gdpo":
    parts = {name: jnp.asarray(part) for name, part in parts.items()}
    return _gdpo(cfg, parts, weights or {})
  total = jnp.asarray(total)
  centred = _centred(cfg, total)
  if cfg.scale == "group":
    return centred / (_std(total, axis=1) + _STD_EPS)
  if cfg.scale == "batch":
    return centred / (_std(total, axis=None) + _STD_EPS)
  return centred


def _gdpo(cfg: config.GRPO, parts: dict, weights: dict) -> Array:
  """Each part normalised in its group, summed, then normalised over the batch.

  (GDPO, arXiv:2601.05242; TRL multi_objective_aggregation
  "normalize_then_sum".)
  """
  summed = sum(
    weights.get(name, 1.0)
    * _centred(cfg, part)
    / (_std(part, axis=1) + _STD_EPS)
    for name, part in parts.items()
  )
  return (summed - summed.mean()) / (_std(summed, axis=None) + _STD_EPS)


def _centred(cfg: config.GRPO, x: Float[Array, "P G"]) -> Float[Array, "P G"]:
  centred = x - x.mean(1, keepdims=True)
  group = x.shape[1]
  if cfg.baseline == "leave_one_out":
    # x - mean of the others = (x - mean of all) * G / (G - 1)
    return centred * group / (group - 1)
  return centred


def _std(x: Float[Array, "P G"], axis: int | None) -> Float[Array, "#P #G"]:
  """Unbiased (ddof=1); 0 where there is only one value."""
  count = x.size if axis is None else x.shape[axis]
  if count == 1:
    return jnp.zeros_like(x)
  return x.std(axis=axis, ddof=1, keepdims=True)


def zero_advantage_groups(
  total: Float[types.Array, "P G"],
  weight: Float[types.Array, "P G"] | None = None,
) -> Bool[types.Array, " P"]:
  """Returns which groups would add nothing to the gradient without a KL term.

  A group is one whose rewards all agree, whatever their value, or whose
  completions are all left out of the loss.  Rewards agree if they span at
  most 1e-6, which is their std up to a factor below sqrt(G) and, unlike a
  computed std, exactly 0 for equal values.
  """
  agree = total.max(1) - total.min(1) <= _ZERO_STD
  if weight is None:
    return agree
  return agree | (weight == 0).all(1)


def completion_weight(
  cfg: config.GRPO, finished: Bool[types.Array, "P G"]
) -> Float[Array, "P G"]:
  """Returns each completion's weight in the loss: 0 drops truncated ones."""
  finished = jnp.asarray(finished, jnp.float32)
  return finished if cfg.truncated == "drop" else jnp.ones_like(finished)


@functools.partial(jax.jit, static_argnames=("cfg", "model", "graphdef"))
def rollout_logp(
  cfg: config.GRPO,
  model: config.Model,
  graphdef: Any,
  params: Any,
  prompts: types.PromptBatch,
  rollout: types.Rollout,
  packing: types.Packing | None = None,
) -> Float[Array, "P G C"]:
  """Returns the rollout's log-probabilities under `params`.

  For old_logp (iterations > 1) and ref_logp (beta > 0).
  """
  return logp.micro_logp(
    graphdef,
    params,
    prompts,
    rollout.tokens,
    rollout.sampled,
    temperature=cfg.temperature,
    model=model,
    packing=packing,
    micro=cfg.micro,
  )


@functools.partial(
  jax.jit,
  static_argnames=("cfg", "model", "graphdef", "tx"),
  donate_argnames="state",
)
def update(
  cfg: config.GRPO,
  model: config.Model,
  graphdef: Any,
  tx: optax.GradientTransformation,
  state: types.TrainState,
  batch: types.Batch,
  base: Any = None,
) -> tuple[types.TrainState, dict[str, Array]]:
  """Returns the state after one optimiser step on `batch`, and its metrics.

  With LoRA the state's parameters are the adapter, and `base` the weights.

  Metrics are means over the tokens in the loss, except `loss`, the counts and
  the maxima.  A first step on its own rollout has a loss of about 0: ratios
  are 1 and advantages sum to 0; `advantage_abs` and `grad_norm` show whether
  it learns.
  """
  denominator = grpo_loss.denominator(cfg, batch)

  def share(params, part):
    whole = lora.attach(model.lora, base, params)
    token_logp, entropy = logp.token_logp(
      graphdef,
      whole,
      part.prompts,
      part.rollout.tokens,
      part.rollout.sampled,
      temperature=cfg.temperature,
      model=model,
      packing=part.packing,
    )
    total, tally = grpo_loss.loss(cfg, token_logp, entropy, part)
    return masked.divide(total, denominator), tally

  grads, tallies = optim.micro_gradients(
    share, state.params, batch, **packing_lib.order(cfg.micro, batch)
  )
  metrics = _metrics(tallies, denominator)
  metrics["policy_lag"] = state.step - batch.policy_step
  state, step_metrics = optim.apply(tx, state, grads, denominator)
  return state, metrics | step_metrics


def _metrics(
  tallies: grpo_loss.Tally, denominator: Float[Array, ""]
) -> dict[str, Array]:
  """The metrics of the whole batch, from the tallies of its micro-batches."""
  sums = {name: x.sum(0) for name, x in tallies.sums.items()}
  counts = {name: sums.pop(name) for name in ("tokens", "completions")}
  loss = masked.divide(sums.pop("loss"), denominator)
  means = {name: masked.divide(x, counts["tokens"]) for name, x in sums.items()}
  maxima = {name: x.max(0) for name, x in tallies.maxima.items()}
  return {"loss": loss, "denominator": denominator, **counts, **means, **maxima}
