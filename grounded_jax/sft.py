"""Supervised fine-tuning: token-mean cross-entropy on demonstrations.

Demonstrations of one prompt share its forward pass, as completions do in GRPO.
The loss is weighted per token: prompt and padding have weight 0, and a token
of weight 2 counts twice in both the sum and the denominator.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from grounded_jax import config, logp, lora, masked, optim, packing, types


@functools.partial(
  jax.jit,
  static_argnames=("cfg", "model", "graphdef", "tx"),
  donate_argnames="state",
)
def update(
  cfg: config.SFT,
  model: config.Model,
  graphdef: Any,
  tx: optax.GradientTransformation,
  state: types.TrainState,
  batch: types.SFTBatch,
  base: Any = None,
) -> tuple[types.TrainState, dict[str, Array]]:
  """Returns the state after one step on `batch`, and scalar metrics.

  With LoRA the state's parameters are the adapter, and `base` the weights.
  """
  denominator = batch.weight.sum()

  def loss(params, part):
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
    share = -masked.sum(scores.logp, part.weight)
    sums = {
      "loss": share,
      "accuracy": masked.sum(scores.best.astype(share.dtype), part.weight),
      "entropy": masked.sum(scores.entropy, part.weight),
    }
    sums = {k: masked.divide(v, denominator) for k, v in sums.items()}
    return sums["loss"], sums

  grads, sums = optim.micro_gradients(
    loss, state.params, batch, **packing.order(cfg.micro, batch)
  )
  state, metrics = optim.apply(tx, state, grads, denominator)
  metrics |= jax.tree.map(lambda x: x.sum(0), sums)
  metrics["tokens"] = (batch.weight > 0).sum().astype(jnp.float32)
  return state, metrics
