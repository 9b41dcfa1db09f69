"""DPO: a number by hand, and what shares a prompt or a row changes nothing.

The numbers of TRL are in test_taught_trl.py.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grounded_jax import config, dpo, model, optim, packing, types

DECODER = config.Decoder(
  layers=2, embed=8, mlp=12, heads=2, kv_heads=1, head_dim=4, vocab=13
)
MODEL = config.Model(decoder=DECODER, logp_chunk=8)
DESCENT = optax.sgd(1.0)  # the parameters' change is the gradient
P, L, C = 4, 5, 4


def test_the_loss_of_a_margin_of_two_halves_is_that_of_sigmoid_one():
  """Chosen -3 against -4 and rejected -5 against -4: beta 0.5 gives 0.5 each.

  -log sigmoid(1) = log(1 + 1/e) = 0.31326.
  """
  logp, ref_logp = jnp.array([[-3.0, -5.0]]), jnp.array([[-4.0, -4.0]])
  each, rewards = dpo.losses(0.5, logp, ref_logp)
  np.testing.assert_allclose(rewards, [[0.5, -0.5]])
  np.testing.assert_allclose(each, [math.log1p(math.exp(-1))], rtol=1e-6)


def pairs() -> types.SFTBatch:
  """Four prompts of unequal length; the third pair counts for nothing."""
  rng = np.random.default_rng(0)
  count = rng.integers(1, C + 1, (P, 2, 1))
  live = np.array([1, 1, 0, 1])[:, None, None]
  return types.SFTBatch(
    prompts=types.PromptBatch(
      tokens=rng.integers(0, 13, (P, L)).astype(np.int32),
      length=np.array([5, 2, 3, 1], np.int32),
      key=np.arange(P, dtype=np.int32),
    ),
    tokens=rng.integers(0, 13, (P, 2, C)).astype(np.int32),
    weight=((np.arange(C) < count) * live).astype(np.float32),
  )


def test_packed_pairs_are_sequences_that_share_nothing(monkeypatch):
  """Loss and gradient of single completions, each behind its own prompt.

  Two pairs to a row, one row at a time; the reference is not the policy.
  """
  monkeypatch.setattr(packing, "_MULTIPLE", 1)
  graphdef, start = model.init(DECODER, jax.random.key(0), "float32")
  params = jax.tree.map(lambda x: 1.5 * x, start)
  cfg = config.DPO(prompts=P, micro=1, pack=2)
  batch = jax.tree.map(jnp.asarray, packing.pack(cfg, pairs(), 1))
  common = (cfg, MODEL, graphdef)
  ref_logp = dpo.completion_logp(*common, start, batch)
  state = optim.init(DESCENT, jax.tree.map(jnp.copy, params))
  state, metrics = dpo.update(*common, DESCENT, state, batch, ref_logp)
  gradient = jax.tree.map(jnp.subtract, params, state.params)

  batch = jax.tree.map(jnp.asarray, pairs())
  alone = types.SFTBatch(
    prompts=jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), batch.prompts),
    tokens=batch.tokens.reshape(2 * P, 1, C),
    weight=batch.weight.reshape(2 * P, 1, C),
  )

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    of = lambda params: dpo.completion_logp(
      config.DPO(prompts=2 * P), MODEL, graphdef, params, alone
    ).reshape(P, 2)
    each, _ = dpo.losses(cfg.beta, of(params), of(start))
    return each[np.array([0, 1, 3])].mean()

  want, want_gradient = loss(params)
  np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)
  assert metrics["pairs"] == 3 and 0 < metrics["accuracy"] < 1
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
    gradient,
    want_gradient,
  )
