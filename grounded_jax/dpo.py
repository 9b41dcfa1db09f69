"""Direct preference optimisation (arXiv:2305.18290), its sigmoid loss.

For a prompt with a chosen and a rejected completion, whose implicit reward is
r = beta * (logp - ref_logp) with log-probabilities summed over its tokens,

  loss = -log sigmoid(r chosen - r rejected),

the mean over the pairs of the global batch.  The reference is the policy that
the stage began with.  Both completions share their prompt's forward pass.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from grounded_jax import config, logp, lora, masked, optim, packing, types

CHOSEN, REJECTED = 0, 1  # places in a group


@functools.partial(jax.jit, static_argnames=("cfg", "model", "graphdef"))
def completion_logp(
  cfg: config.DPO,
  model: config.Model,
  graphdef: Any,
  params: Any,
  batch: types.SFTBatch,
) -> Float[Array, "P G"]:
  """Returns the log-probability of each completion under `params`."""
  token = logp.micro_logp(
    graphdef,
    params,
    batch.prompts,
    batch.tokens,
    batch.weight > 0,
    temperature=1.0,
    model=model,
    packing=batch.packing,
    micro=cfg.micro,
  )
  return masked.sum(token, batch.weight, axis=-1)


def losses(
  beta: float, logp: Float[Array, "P G"], ref_logp: Float[Array, "P G"]
) -> tuple[Float[Array, " P"], Float[Array, "P G"]]:
  """Returns each pair's loss, and the implicit rewards of its completions."""
  rewards = beta * (logp - ref_logp)
  margin = rewards[:, CHOSEN] - rewards[:, REJECTED]
  return -jax.nn.log_sigmoid(margin), rewards


@functools.partial(
  jax.jit,
  static_argnames=("cfg", "model", "graphdef", "tx"),
  donate_argnames="state",
)
def update(
  cfg: config.DPO,
  model: config.Model,
  graphdef: Any,
  tx: optax.GradientTransformation,
  state: types.TrainState,
  batch: types.SFTBatch,
  ref_logp: Float[Array, "P G"],
  base: Any = None,
) -> tuple[types.TrainState, dict[str, Array]]:
  """Returns the state after one step on `batch`, and metrics: means of pairs.

  With LoRA the state's parameters are the adapter, and `base` the weights.

  Args:
    cfg: beta and micro are read.
    model: its section.
    graphdef: of the model.
    tx: the optimiser.
    state: before the step.
    batch: the pairs.
    ref_logp: `completion_logp` under the reference.
    base: the weights that adapters are added to.
  """
  pairs = (batch.weight > 0).any((1, 2)).sum().astype(jnp.float32)

  def loss(params, part):
    part, ref_logp = part
    scores = logp.token_scores(
      graphdef,
      lora.attach(model.lora, base, params),
      part.prompts,
      part.tokens,
      part.weight > 0,
      temperature=1.0,
      model=model,
      packing=part.packing,
    )
    whole = masked.sum(scores.logp, part.weight, axis=-1)
    each, rewards = losses(cfg.beta, whole, ref_logp)
    chosen, rejected = rewards[:, CHOSEN], rewards[:, REJECTED]
    counted = (part.weight > 0).any((1, 2))
    sums = {
      "loss": each,
      "reward_chosen": chosen,
      "reward_rejected": rejected,
      "margin": chosen - rejected,
      "accuracy": (chosen > rejected).astype(each.dtype),
      "logp_chosen": whole[:, CHOSEN],
      "logp_rejected": whole[:, REJECTED],
    }
    sums = {
      name: masked.divide(masked.sum(x, counted), pairs)
      for name, x in sums.items()
    }
    return sums["loss"], sums

  grads, sums = optim.micro_gradients(
    loss, state.params, (batch, ref_logp), **packing.order(cfg.micro, batch)
  )
  state, metrics = optim.apply(tx, state, grads, pairs)
  metrics |= jax.tree.map(lambda x: x.sum(0), sums)
  metrics["pairs"] = pairs
  metrics["tokens"] = (batch.weight > 0).sum().astype(jnp.float32)
  return state, metrics
