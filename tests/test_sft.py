import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grounded_jax import config, logp, model, optim, packing, sft, types

DECODER = config.Decoder(
  layers=2, embed=8, mlp=12, heads=2, kv_heads=1, head_dim=4, vocab=13
)
MODEL = config.Model(decoder=DECODER, logp_chunk=8)
EOS = 12
DESCENT = optax.sgd(0.1)


def demonstrations() -> types.SFTBatch:
  """Two prompts of unequal length with two demonstrations each."""
  prompts = types.PromptBatch(
    tokens=jnp.array([[1, 2, 3], [4, 0, 0]], jnp.int32),
    length=jnp.array([3, 1], jnp.int32),
    key=jnp.array([0, 1], jnp.int32),
  )
  tokens = [[[5, 6, EOS], [7, EOS, 0]], [[8, EOS, 0], [9, 10, 11]]]
  weight = [[[1, 1, 1], [1, 2, 0]], [[1, 1, 0], [0, 0, 1]]]
  return types.SFTBatch(
    prompts=prompts,
    tokens=jnp.array(tokens, jnp.int32),
    weight=jnp.array(weight, jnp.float32),
  )


def scores(graphdef, params, batch) -> logp.Scores:
  return logp.token_scores(
    graphdef,
    params,
    batch.prompts,
    batch.tokens,
    jnp.ones(batch.tokens.shape, bool),
    temperature=1.0,
    model=MODEL,
  )


def one_update(batch, micro=0, pack=0):
  graphdef, params = model.init(DECODER, jax.random.key(0), "float32")
  cfg = config.SFT(prompts=2, group=2, micro=micro, pack=pack)
  state = optim.init(DESCENT, jax.tree.map(jnp.copy, params))
  if pack:
    batch = packing.pack(cfg, jax.tree.map(np.asarray, batch), 1)
  state, metrics = sft.update(cfg, MODEL, graphdef, DESCENT, state, batch)
  return graphdef, params, state, metrics


def test_loss_is_the_weighted_token_mean_and_step_trains_eos():
  batch = demonstrations()
  graphdef, params, state, metrics = one_update(batch)
  before = scores(graphdef, params, batch)
  weight = np.asarray(batch.weight)
  want = -(np.asarray(before.logp) * weight).sum() / 9
  np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)
  accuracy = (np.asarray(before.best) * weight).sum() / 9
  np.testing.assert_allclose(metrics["accuracy"], accuracy, rtol=1e-6)
  assert metrics["tokens"] == 8
  assert state.step == 1 and metrics["skipped"] == 0
  after = scores(graphdef, state.params, batch)
  gain = np.asarray(after.logp - before.logp)
  assert (gain[np.asarray(batch.tokens) == EOS] > 0).all()
  assert (gain * weight).sum() > 0


def test_neither_micro_batches_nor_untrained_tokens_change_the_step():
  batch = demonstrations()
  _, _, whole, metrics = one_update(batch)
  _, _, parts, micro_metrics = one_update(batch, micro=1)
  # Tokens of weight 0 after the last that counts are padding.
  other = jnp.where(batch.weight == 0, 2, batch.tokens)
  other = other.at[1, 1].set(batch.tokens[1, 1])  # weight 0, but context
  _, _, padded, _ = one_update(dataclasses.replace(batch, tokens=other))
  for name in ("loss", "accuracy", "entropy", "grad_norm"):
    np.testing.assert_allclose(
      micro_metrics[name], metrics[name], rtol=1e-5, atol=1e-6
    )
  for state in (parts, padded):
    leaves = zip(
      jax.tree.leaves(state.params), jax.tree.leaves(whole.params), strict=True
    )
    for got, want in leaves:
      np.testing.assert_allclose(got, want, atol=1e-6)


def test_accuracy_is_one_where_every_token_is_the_likeliest():
  batch = demonstrations()
  graphdef, params = model.init(DECODER, jax.random.key(0), "float32")
  tx = optax.adam(0.02)
  state = optim.init(tx, params)
  cfg = config.SFT(prompts=2, group=2)
  for _ in range(60):
    state, metrics = sft.update(cfg, MODEL, graphdef, tx, state, batch)
  # Demonstrations of one prompt differ in their first token: one is wrong.
  best = np.asarray(scores(graphdef, state.params, batch).best)
  assert best[:, :, 1:][np.asarray(batch.weight)[:, :, 1:] > 0].all()
  assert 0.7 < metrics["accuracy"] < 1.0


def test_the_packed_step_is_the_padded_one(monkeypatch):
  """Both prompts in one row; one token inside a span has weight 0."""
  monkeypatch.setattr(packing, "_MULTIPLE", 1)
  batch = demonstrations()
  assert np.array(jax.tree.map(np.asarray, batch).spans).tolist() == [
    [3, 2],
    [2, 3],
  ]
  _, _, whole, metrics = one_update(batch)
  _, _, packed, packed_metrics = one_update(batch, micro=1, pack=2)
  for name, value in metrics.items():
    np.testing.assert_allclose(packed_metrics[name], value, rtol=1e-5)
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got, want, atol=1e-6),
    packed.params,
    whole.params,
  )
