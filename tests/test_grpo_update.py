"""The GRPO update on a real, tiny model."""

import dataclasses

import grpo_cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grounded_jax import config, grpo, model, optim, sampler, types

DECODER = config.Decoder(
  layers=2, embed=8, mlp=12, heads=2, kv_heads=1, head_dim=4, vocab=13
)
EOS = 12
DESCENT = optax.sgd(1.0)  # the parameters' change is the gradient


def setup(dtype: str):
  """Model config, graph and parameters large enough to be far from uniform."""
  cfg = config.Model(
    decoder=DECODER, param_dtype=dtype, compute_dtype=dtype, logp_chunk=8
  )
  graphdef, params = model.init(DECODER, jax.random.key(0), dtype)
  return cfg, graphdef, jax.tree.map(lambda x: 1.5 * x, params)


def state_of(tx, params) -> types.TrainState:
  """A state that may be donated: `params` stay."""
  return optim.init(tx, jax.tree.map(jnp.copy, params))


def rollout_batch(p: int = 4, g: int = 3, c: int = 5) -> types.Batch:
  """Random tokens and lengths, in float64, off their policy."""
  rng = np.random.default_rng(1)
  case = grpo_cases.random_case(1, p, g, c)
  case["length"] = rng.integers(1, c + 1, (p, g))
  batch = grpo_cases.make_batch(**(case | {"old_logp": None}))
  prompts = types.PromptBatch(
    tokens=jnp.asarray(rng.integers(0, 12, (p, 6))),
    length=jnp.asarray(rng.integers(1, 7, p)),
    key=jnp.arange(p),
  )
  tokens = jnp.asarray(rng.integers(0, 12, (p, g, c)))
  return dataclasses.replace(
    batch,
    prompts=prompts,
    rollout=dataclasses.replace(batch.rollout, tokens=tokens),
    weight=batch.weight.at[0, 0].set(0.0),
  )


def permuted(batch: types.Batch, order: list[int]) -> types.Batch:
  return jax.tree.map(lambda x: x[jnp.array(order)] if x.ndim else x, batch)


@pytest.fixture
def double_precision():
  with jax.enable_x64(True):
    yield


def one_update(cfg, batch):
  """The parameters' change under plain descent, and the metrics."""
  model_cfg, graphdef, params = setup("float64")
  state, metrics = grpo.update(
    cfg, model_cfg, graphdef, DESCENT, state_of(DESCENT, params), batch
  )
  change = jax.tree.map(jnp.subtract, state.params, params)
  return jax.tree.leaves(change), metrics


@pytest.mark.parametrize(
  "options",
  [
    {"aggregation": "token_mean", "mismatch": "truncate"},
    {"aggregation": "sequence_mean", "ratio": "sequence"},
    {"aggregation": "constant", "beta": 0.04},
  ],
)
def test_update_depends_on_neither_micro_batches_nor_order(
  double_precision, options
):
  cfg = grpo_cases.plain(prompts=4, **options)
  batch = rollout_batch()
  whole, metrics = one_update(cfg, batch)
  micro = dataclasses.replace(cfg, micro=2)
  parts, micro_metrics = one_update(micro, permuted(batch, [2, 0, 3, 1]))
  for got, want in zip(parts, whole, strict=True):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)
  assert max(np.abs(x).max() for x in whole) > 1e-2
  for name, value in metrics.items():
    np.testing.assert_allclose(micro_metrics[name], value, atol=1e-10)


def test_groups_left_out_of_the_loss_change_nothing(double_precision):
  """Neither where they stand nor whether they share a micro-batch."""
  cfg = dataclasses.replace(grpo_cases.plain(prompts=4), micro=1)
  batch = rollout_batch()
  batch = dataclasses.replace(batch, weight=batch.weight.at[1:3].set(0.0))
  parts, metrics = one_update(cfg, batch)
  alone, want = one_update(
    dataclasses.replace(cfg, prompts=2), permuted(batch, [0, 3])
  )
  for got, expected in zip(parts, alone, strict=True):
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
  for name, value in want.items():
    np.testing.assert_allclose(metrics[name], value, atol=1e-12)


def test_local_denominators_would_give_another_gradient(double_precision):
  """The law above can fail: micro-batches differ in their token counts."""
  cfg, batch = grpo_cases.plain(prompts=4), rollout_batch()
  whole, _ = one_update(cfg, batch)
  halves = [
    one_update(cfg, permuted(batch, rows))[0] for rows in ([0, 1], [2, 3])
  ]
  local = [(a + b) / 2 for a, b in zip(*halves, strict=True)]
  off = [np.abs(a - b).max() for a, b in zip(local, whole, strict=True)]
  assert max(off) > 1e-3


def test_non_finite_gradient_skips_the_step_and_is_counted(double_precision):
  cfg, batch = grpo_cases.plain(prompts=4), rollout_batch()
  tx = optim.make(config.Optimizer(lr=0.1), 10)
  model_cfg, graphdef, params = setup("float64")
  bad = dataclasses.replace(
    batch, advantage=batch.advantage.at[1, 1].set(jnp.inf)
  )
  state = state_of(tx, params)
  state, metrics = grpo.update(cfg, model_cfg, graphdef, tx, state, bad)
  assert metrics["skipped"] == 1 and state.step == 0
  leaves = lambda tree: jax.tree.leaves(tree)
  for got, want in zip(leaves(state.params), leaves(params), strict=True):
    np.testing.assert_array_equal(got, want)
  compiled = grpo.update._cache_size()
  state, metrics = grpo.update(cfg, model_cfg, graphdef, tx, state, batch)
  assert metrics["skipped"] == 0 and state.step == 1
  assert metrics["grad_norm"] > 0
  assert grpo.update._cache_size() == compiled  # one compilation serves both


def sampled_batch(temperature: float, g: int = 4, c: int = 6):
  model_cfg, graphdef, params = setup("float32")
  prompts = types.PromptBatch(
    tokens=jnp.array([[1, 2, 3, 4], [5, 6, 0, 0]], jnp.int32),
    length=jnp.array([4, 2], jnp.int32),
    key=jnp.array([0, 1], jnp.int32),
  )
  rollout = sampler.sample(
    graphdef,
    params,
    prompts,
    seed=0,
    stage=0,
    step=0,
    purpose=sampler.PURPOSE_TRAIN,
    group=g,
    max_new_tokens=c,
    temperature=temperature,
    top_p=1.0,
    eos=(EOS,),
    model=model_cfg,
  )
  batch = types.Batch(
    prompts=prompts,
    rollout=rollout,
    advantage=jnp.tile(jnp.array([1.0, -1.0] * (g // 2)), (2, 1)),
    weight=jnp.ones((2, g)),
    policy_step=jnp.zeros((), jnp.int32),
  )
  return model_cfg, graphdef, params, batch


@pytest.mark.parametrize("micro", [0, 1])
def test_learner_applies_the_temperature_of_the_sampler(micro):
  model_cfg, graphdef, params, batch = sampled_batch(0.5)
  cfg = grpo_cases.plain(prompts=2, temperature=0.5, micro=micro)
  logp = lambda cfg: grpo.rollout_logp(
    cfg, model_cfg, graphdef, params, batch.prompts, batch.rollout
  )
  np.testing.assert_allclose(logp(cfg), batch.rollout.logp, atol=1e-4)
  wrong = logp(dataclasses.replace(cfg, temperature=1.0))
  assert np.abs(wrong - batch.rollout.logp).max() > 0.1
  tx = optax.sgd(0.0)
  _, metrics = grpo.update(
    cfg, model_cfg, graphdef, tx, state_of(tx, params), batch
  )
  assert metrics["mismatch_logp_abs_max"] < 1e-4
  assert metrics["mismatch_outside"] == 0
  np.testing.assert_allclose(metrics["ratio"], 1.0)


def test_eos_is_trained():
  """A completion that is nothing but EOS becomes likelier if it was good."""
  model_cfg, graphdef, params, batch = sampled_batch(1.0, g=2, c=2)
  rollout = types.Rollout(
    tokens=jnp.array([[[EOS, 0], [3, 4]]] * 2, jnp.int32),
    sampled=jnp.array([[[True, False], [True, True]]] * 2),
    logp=jnp.zeros((2, 2, 2)),
    finished=jnp.array([[True, False]] * 2),
  )
  batch = dataclasses.replace(batch, rollout=rollout)
  cfg = grpo_cases.plain(prompts=2)
  logp = lambda params: grpo.rollout_logp(
    cfg, model_cfg, graphdef, params, batch.prompts, rollout
  )
  before = logp(params)
  assert (before[:, 0, 0] < 0).all() and (before[:, 0, 1] == 0).all()
  tx = optax.sgd(1e-3)
  state, metrics = grpo.update(
    cfg, model_cfg, graphdef, tx, state_of(tx, params), batch
  )
  assert metrics["tokens"] == 2 * 3
  assert (logp(state.params)[:, 0, 0] > before[:, 0, 0]).all()
