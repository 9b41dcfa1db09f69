"""LoRA: the adapter alone is trained, and nothing else is another model."""

import dataclasses
import functools

import grpo_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_train import Stop, files, quiet, stopping, untimed

from grounded_jax import (
  checkpoint,
  config,
  grpo,
  log,
  logp,
  lora,
  mesh,
  model,
  optim,
  sampler,
  tokenizer,
  train,
  types,
)
from grounded_jax import policy as policy_lib
from grounded_jax.records import UserError

DECODER = config.Decoder(
  layers=2, embed=8, mlp=12, heads=4, kv_heads=2, head_dim=4, vocab=13
)
LORA = config.LoRA(rank=3, alpha=6.0)
MODEL = config.Model(decoder=DECODER, logp_chunk=8, lora=LORA)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def values(dtype, cfg, fresh):
  """(weights, adapter)."""
  base = model.init(DECODER, jax.random.key(0), dtype)[1]
  adapter = lora.init(lora.abstract(cfg, base), jax.random.key(1))
  if fresh:
    return base, adapter
  noise = lambda x: jax.random.normal(jax.random.key(2), x.shape, x.dtype)
  return base, jax.tree.map(lambda x: x + 0.2 * noise(x), adapter)


def setup(dtype="float32", cfg=LORA, fresh=False):
  """(graph, weights, adapter); unless fresh, no part of the adapter is 0."""
  return model.abstract(DECODER)[0], *values(dtype, cfg, fresh)


def prompts() -> types.PromptBatch:
  return types.PromptBatch(
    tokens=jnp.array([[1, 2, 3, 4], [5, 6, 0, 0]], jnp.int32),
    length=jnp.array([4, 2], jnp.int32),
    key=jnp.array([0, 1], jnp.int32),
  )


@functools.partial(jax.jit, static_argnums=(0, 2))
def token_logp(graphdef, params, cfg=MODEL):
  tokens = jnp.arange(2 * 3 * 5).reshape(2, 3, 5) % 13
  return logp.token_logp(
    graphdef,
    params,
    prompts(),
    tokens,
    jnp.ones(tokens.shape, bool),
    temperature=1.0,
    model=cfg,
  )[0]


def assert_same(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_fresh_adapter_is_the_model_itself():
  graphdef, base, adapter = setup(fresh=True)
  params = lora.attach(LORA, base, adapter)
  assert_same(token_logp(graphdef, params), token_logp(graphdef, base))
  assert_same(lora.merged(params), base)


def test_an_adapter_acts_as_w_plus_alpha_over_rank_times_a_b():
  graphdef, base, adapter = setup()
  cfg = dataclasses.replace(LORA, targets="q,o,down")
  adapter = {name: adapter[name] for name in cfg.names}
  params = lora.attach(cfg, base, adapter)
  blocks = dict(base["blocks"])
  ab = lambda name, letters: 2.0 * jnp.einsum(letters, *adapter[name].values())
  blocks["q"] += ab("q", "ydr,yrnh->ydnh")
  blocks["o"] += ab("o", "ynhr,yrd->ynhd")
  blocks["down"] += ab("down", "yfr,yrd->yfd")
  want = token_logp(graphdef, base | {"blocks": blocks})
  np.testing.assert_allclose(token_logp(graphdef, params), want, atol=1e-5)
  assert np.abs(want - token_logp(graphdef, base)).max() > 0.1
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    lora.merged(params)["blocks"],
    blocks,
  )


@pytest.mark.parametrize("dtype, tol", [("float64", 1e-10), ("float32", 1e-5)])
def test_gradient_is_the_chain_rule_on_that_of_the_whole_matrix(dtype, tol):
  with jax.enable_x64(dtype == "float64"):
    cfg = dataclasses.replace(MODEL, param_dtype=dtype, compute_dtype=dtype)
    graphdef, base, adapter = setup(dtype)
    loss = lambda params: jnp.sin(3 * token_logp(graphdef, params, cfg)).sum()
    params = lora.attach(LORA, base, adapter)
    of_adapter = jax.grad(lambda x: loss(lora.attach(LORA, base, x)))
    got = jax.jit(of_adapter)(adapter)
    whole = jax.jit(lambda x: jax.grad(loss)(lora.merged(x)))(params)
    for name, leaves in adapter.items():
      y, r = DECODER.layers, LORA.rank
      a, b = leaves["a"].reshape(y, -1, r), leaves["b"].reshape(y, r, -1)
      d_w = whole["blocks"][name].reshape(y, a.shape[1], b.shape[2])
      want = {
        "a": 2.0 * d_w @ b.transpose(0, 2, 1),
        "b": 2.0 * a.transpose(0, 2, 1) @ d_w,
      }
      for side, value in want.items():
        value = value.reshape(got[name][side].shape)
        error = np.abs(got[name][side] - value).max() / np.abs(value).max()
        assert error < tol, (name, side)


def test_an_adapter_of_a_name_depends_on_no_other_target():
  _, _, every = setup(fresh=True)
  few = dataclasses.replace(LORA, targets="v,down")
  _, _, some = setup(cfg=few, fresh=True)
  assert sorted(some) == ["down", "v"]
  for name, leaves in some.items():
    assert_same(leaves, every[name])
    bound = np.prod(leaves["a"].shape[1:-1]) ** -0.5
    assert 0.5 * bound < np.abs(leaves["a"]).max() <= bound


def draw(cfg, graphdef, params, group=4):
  return sampler.sample(
    graphdef,
    params,
    prompts(),
    seed=0,
    stage=0,
    step=0,
    purpose=sampler.PURPOSE_TRAIN,
    group=group,
    max_new_tokens=6,
    temperature=1.0,
    top_p=1.0,
    eos=(12,),
    model=cfg,
  )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sampler_and_learner_compute_with_the_same_matrix(dtype):
  cfg = dataclasses.replace(MODEL, compute_dtype=dtype)
  graphdef, base, adapter = setup()
  params = lora.attach(LORA, base, adapter)
  rollout = draw(cfg, graphdef, params)
  learned = grpo.rollout_logp(
    grpo_cases.plain(prompts=2), cfg, graphdef, params, prompts(), rollout
  )
  gap = np.abs(learned - rollout.logp).max()
  assert gap < (1e-4 if dtype == "float32" else 5e-2)
  assert np.abs(draw(cfg, graphdef, base).logp - rollout.logp).max() > 0.1


def update(cfg, state, base):
  """One GRPO step on a rollout of the policy."""
  graphdef, _ = model.abstract(DECODER)
  params = lora.attach(cfg.lora, base, state.params)
  rollout = draw(cfg, graphdef, params, group=2)
  batch = types.Batch(
    prompts=prompts(),
    rollout=rollout,
    advantage=jnp.array([[1.0, -1.0]] * 2),
    weight=jnp.ones((2, 2)),
    policy_step=jnp.zeros((), jnp.int32),
  )
  tx = optim.make(config.Optimizer(lr=0.1, warmup=0.0), 10)
  grpo_cfg = grpo_cases.plain(prompts=2)
  return grpo.update(grpo_cfg, cfg, graphdef, tx, state, batch, base)


def test_a_step_moves_the_adapter_and_leaves_the_weights():
  _, base, adapter = setup(fresh=True)
  before = jax.device_get((base, adapter))
  tx = optim.make(config.Optimizer(lr=0.1, warmup=0.0), 10)
  state, metrics = update(MODEL, optim.init(tx, adapter), base)
  assert metrics["grad_norm"] > 0 and metrics["skipped"] == 0
  assert_same(base, before[0])
  # A's gradient is 0 while B is.
  for name, leaves in state.params.items():
    assert np.abs(leaves["b"]).min() > 0, name
    assert_same(leaves["a"], before[1][name]["a"])
  sizes = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
  # Two moments an adapter, and counts.
  assert sizes(state.opt_state) == 2 * sizes(before[1]) + 8


def test_adapters_are_cut_over_the_mesh_as_their_matrices_are():
  axes = lora.logical_axes(LORA, model.logical_axes(DECODER))
  assert axes["q"] == {
    "a": ("layers", "embed", "rank"),
    "b": ("layers", "rank", "heads", "head_dim"),
  }
  assert axes["o"]["a"] == ("layers", "heads", "head_dim", "rank")
  assert axes["down"]["b"] == ("layers", "rank", "embed")
  shapes = lora.abstract(LORA, model.abstract(DECODER)[1])
  cuts = mesh.shardings(mesh.make(config.Mesh()), axes, shapes)
  assert jax.tree.structure(cuts) == jax.tree.structure(shapes)


@pytest.mark.parametrize(
  ("lora_", "stage", "message"),
  [
    ({"rank": -1}, {}, "rank=-1 must be 0 or more"),
    ({"alpha": 0.0}, {}, "alpha=0.0 must be greater than 0"),
    ({"targets": "q,x"}, {}, "targets='x' must be one of q, k"),
    ({"targets": ""}, {}, "targets='' must be one of q, k"),
    ({"targets": "q,q"}, {}, "targets=q,q names a matrix twice"),
    ({"rank": 2}, {"kind": "muon"}, "optimizer.kind=muon, which is for whole"),
    ({"rank": 2}, {"master": True}, "sets optimizer.master, but what it tr"),
    ({}, {"master": True}, "sets optimizer.master, but what it trains is floa"),
  ],
)
def test_a_mistake_is_named(lora_, stage, message):
  with pytest.raises(UserError, match=message):
    config.Experiment(
      name="x",
      model=config.Model(lora=config.LoRA(**lora_)),
      stages=(config.Stage(name="a", optimizer=config.Optimizer(**stage)),),
    )


def experiment(folder):
  """A supervised stage, then GRPO with a KL term, both on an adapter."""
  path = tiny.write_records(folder / "records.jsonl")
  made = tiny.experiment(
    path,
    [
      tiny.stage(
        "sft",
        objective="sft",
        steps=2,
        sft=config.SFT(prompts=2, max_new_tokens=256),
      ),
      tiny.stage("kl", grpo=dataclasses.replace(tiny.GRPO, beta=0.1)),
    ],
    evals=False,
  )
  cfg = dataclasses.replace(made.model, lora=config.LoRA(rank=2))
  return dataclasses.replace(made, model=cfg)


def run(exp, workdir, score=tiny.varied_score):
  return train.run(exp, workdir, score=score, console=quiet())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  folder = tmp_path_factory.mktemp("lora")
  exp = experiment(folder)
  run(exp, folder / "run")
  return exp, folder / "run"


def trained(exp, workdir, stage):
  found = checkpoint.find(str(workdir / stage))
  policy, params = policy_lib.load(exp, tokenizer.Bytes(), found)
  return policy, params


def test_a_run_saves_the_adapter_alone_and_moves_it(unbroken):
  exp, workdir = unbroken
  policy, after = trained(exp, workdir, "sft")
  _, fresh = policy_lib.load(exp, tokenizer.Bytes())
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), after, fresh)
  assert min(jax.tree.leaves(moved)) > 0
  plain = dataclasses.replace(exp.model, lora=config.LoRA())
  _, base = policy_lib.load(
    dataclasses.replace(exp, model=plain), tokenizer.Bytes()
  )
  assert_same(policy.base, base)
  with pytest.raises(UserError, match="holds another model.* adapter alone"):
    trained(dataclasses.replace(exp, model=plain), workdir, "sft")
  rows = log.read_metrics(workdir)
  assert all(row["grad_norm"] > 0 for row in rows)
  learned = [row for row in rows if row["stage"] == "kl"]
  assert all(row["mismatch_logp_abs_max"] < 1e-4 for row in learned)
  assert learned[0]["kl"] < 1e-6 < learned[-1]["kl"]


def test_the_reference_is_the_same_weights_with_the_adapter_of_the_start(
  unbroken,
):
  exp, workdir = unbroken
  _, start = trained(exp, workdir, "sft")
  stage = exp.stages[1]
  tx = optim.make(stage.optimizer, stage.steps)
  policy, params = policy_lib.load(exp, tokenizer.Bytes())
  with checkpoint.open_manager(workdir, "kl", 2) as manager:
    at = checkpoint.begin(manager, tx, params, with_reference=True)
  assert_same(at.reference, start)
  # Both read the very arrays of the one base: nothing of it is copied.
  leaves = lambda tree: {
    id(leaf) for leaf in jax.tree.leaves(tree) if leaf.ndim
  }
  base = leaves(policy.base)
  for params in (at.reference, at.state.params):
    assert base <= leaves(policy.whole(params))
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
  assert size(at.reference) == size(at.state.params)
  assert size(at.reference) < size(policy.base) / 4


def test_the_reference_of_a_fresh_adapter_is_the_base_to_the_bit():
  graphdef, base, adapter = setup(fresh=True)
  batch = prompts()
  rollout = types.Rollout(
    tokens=jnp.ones((2, 2, 4), jnp.int32),
    sampled=jnp.ones((2, 2, 4), bool),
    logp=jnp.zeros((2, 2, 4)),
    finished=jnp.ones((2, 2), bool),
  )
  of = lambda params: grpo.rollout_logp(
    grpo_cases.plain(prompts=2), MODEL, graphdef, params, batch, rollout
  )
  assert_same(of(lora.attach(LORA, base, adapter)), of(base))


def test_a_resumed_run_equals_the_unbroken_one(unbroken, tmp_path):
  exp, workdir = unbroken
  for calls in (2, 0):  # in the KL stage before its checkpoint, and after
    with pytest.raises(Stop):
      run(exp, tmp_path, stopping(calls))
  run(exp, tmp_path)
  for stage in ("sft", "kl"):
    assert_same(
      trained(exp, tmp_path, stage)[1], trained(exp, workdir, stage)[1]
    )
  assert untimed(log.read_metrics(tmp_path)) == untimed(
    log.read_metrics(workdir)
  )
  assert files(tmp_path, "rollouts") == files(workdir, "rollouts")
