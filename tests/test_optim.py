import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import grpo as presets
from grounded_jax import config, optim


def _params():
  """The decoder's stacked leaves, two layers, none of them square."""
  shapes = {
    "embed": (11, 6),
    "norm": (6,),
    "blocks": {
      "attn_norm": (2, 6),
      "q": (2, 6, 4, 3),
      "k": (2, 6, 2, 3),
      "o": (2, 4, 3, 6),
      "up": (2, 6, 10),
      "down": (2, 10, 6),
    },
  }
  is_shape = lambda x: isinstance(x, tuple)
  leaves, tree = jax.tree.flatten(shapes, is_leaf=is_shape)
  keys = jax.random.split(jax.random.key(0), len(leaves))
  return jax.tree.unflatten(
    tree,
    [jax.random.normal(k, s) for k, s in zip(keys, leaves, strict=True)],
  )


def _one_update(cfg, grads, params):
  tx = optim.make(cfg, 10)
  step = lambda grads: tx.update(grads, tx.init(params), params)[0]
  return jax.jit(step)(grads)


def test_schedule_ramps_to_the_peak_without_a_zero_step():
  cfg = config.Optimizer(lr=2.0, warmup=0.2, schedule="constant")
  rate = optim.schedule(cfg, 10)
  np.testing.assert_allclose([rate(i) for i in range(4)], [1.0, 2.0, 2.0, 2.0])


@pytest.mark.parametrize(
  "kind, middle", [("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)]
)
def test_schedule_by_kind(kind, middle):
  rate = optim.schedule(config.Optimizer(lr=1.0, warmup=0.2, schedule=kind), 10)
  end = 1.0 if kind == "constant" else 0.0
  got = [float(rate(i)) for i in (2, 6, 10, 99)]
  np.testing.assert_allclose(got, [1.0, middle, end, end], atol=1e-7)
  assert rate(9) > 0  # the last step moves


def test_schedule_without_warmup_starts_at_the_peak():
  assert optim.schedule(config.Optimizer(lr=3.0, warmup=0.0), 5)(0) == 3.0


def test_first_adamw_step_is_the_rate_times_the_sign():
  cfg = config.Optimizer(lr=0.1, warmup=0.0, schedule="constant", grad_clip=0.0)
  params = {"up": jnp.array([1.0, -2.0])}
  got = _one_update(cfg, {"up": jnp.array([5.0, -0.01])}, params)
  np.testing.assert_allclose(got["up"], [-0.1, 0.1], rtol=1e-4)


def test_weight_decay_spares_biases():
  cfg = config.Optimizer(
    lr=0.1, warmup=0.0, schedule="constant", weight_decay=0.5
  )
  params = {"blocks": {"q_bias": jnp.ones((2, 3)), "q": jnp.ones((2, 4, 3))}}
  zeros = jax.tree.map(jnp.zeros_like, params)
  got = _one_update(cfg, zeros, params)["blocks"]
  np.testing.assert_array_equal(got["q_bias"], 0)
  np.testing.assert_allclose(got["q"], -0.05, rtol=1e-6)


def test_weight_decay_spares_norm_scales():
  cfg = config.Optimizer(
    lr=0.1, warmup=0.0, schedule="constant", weight_decay=0.5
  )
  params = _params()
  zeros = jax.tree.map(jnp.zeros_like, params)
  got = _one_update(cfg, zeros, params)
  np.testing.assert_allclose(got["embed"], -0.05 * params["embed"], rtol=1e-6)
  np.testing.assert_array_equal(got["norm"], 0)
  np.testing.assert_array_equal(got["blocks"]["attn_norm"], 0)


def test_clip_bounds_the_global_norm():
  big = {"up": jnp.array([3.0, 4.0])}
  cfg = config.Optimizer(grad_clip=1.0)
  state = optim.init(optim.make(cfg, 10), big)
  mu = lambda grads: optax.tree.get(
    optim.make(cfg, 10).update(grads, state.opt_state, big)[1], "mu"
  )
  # AdamW's first moment after one step is (1 - b1) of the clipped gradient.
  np.testing.assert_allclose(mu(big)["up"], [0.06, 0.08], rtol=1e-5)


def test_muon_orthogonalises_each_layer_and_leaves_the_rest_to_adamw():
  cfg = config.Optimizer(
    kind="muon", lr=1.0, warmup=0.0, schedule="constant", grad_clip=0.0
  )
  params = _params()
  grads = jax.tree.map(lambda x: x * x + 0.3 * x, params)
  got = _one_update(cfg, grads, params)
  matrices = {
    "q": (6, 12),
    "k": (6, 6),
    "o": (12, 6),
    "up": (6, 10),
    "down": (10, 6),
  }
  for name, shape in matrices.items():
    for layer in got["blocks"][name]:
      values = np.linalg.svd(layer.reshape(shape), compute_uv=False)
      # Newton-Schulz leaves singular values in 0.5..1.5, then the common
      # scale 0.2 sqrt(max(shape)) follows.
      values = values / (0.2 * np.sqrt(max(shape)))
      assert 0.3 < values.min() and values.max() < 1.6, (name, values)
  # AdamW's first step has size lr everywhere.
  np.testing.assert_allclose(np.abs(got["embed"]), 1.0, rtol=0.05)


def test_muon_treats_layers_alone():
  cfg = config.Optimizer(kind="muon", lr=1.0, warmup=0.0, grad_clip=0.0)
  params = _params()
  grads = jax.tree.map(jnp.sin, params)
  base = _one_update(cfg, grads, params)["blocks"]["up"]
  grads["blocks"]["up"] = grads["blocks"]["up"].at[1].mul(7.0).at[1, 0].add(1)
  changed = _one_update(cfg, grads, params)["blocks"]["up"]
  np.testing.assert_array_equal(changed[0], base[0])
  assert np.abs(changed[1] - base[1]).max() > 1e-3


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gradient_that_is_not_finite_leaves_the_state_alone(kind, bad):
  tx = optim.make(config.Optimizer(kind=kind, lr=0.1), 10)
  state = optim.init(tx, _params())
  good = jax.tree.map(jnp.ones_like, state.params)
  apply = jax.jit(functools.partial(optim.apply, tx))
  state, metrics = apply(state, good, jnp.ones(()))
  assert metrics["skipped"] == 0 and state.step == 1
  broken = good | {"norm": good["norm"].at[2].set(bad)}
  after, metrics = apply(state, broken, jnp.ones(()))
  assert metrics["skipped"] == 1 and after.step == 1
  pairs = zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True)
  for got, want in pairs:
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_batch_of_no_weight_moves_nothing_by_old_momentum(kind):
  tx = optim.make(config.Optimizer(kind=kind, lr=0.1, weight_decay=0.1), 10)
  state = optim.init(tx, _params())
  apply = jax.jit(functools.partial(optim.apply, tx))
  state, _ = apply(
    state, jax.tree.map(jnp.ones_like, state.params), jnp.ones(())
  )
  zeros = jax.tree.map(jnp.zeros_like, state.params)
  after, metrics = apply(state, zeros, jnp.zeros(()))
  assert metrics["skipped"] == 1 and after.step == 1
  pairs = zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True)
  for got, want in pairs:
    np.testing.assert_array_equal(got, want)


def test_split_deals_out_rows_and_join_collects_them():
  batch = {"a": jnp.arange(6), "step": jnp.int32(7)}
  leaves, rebuild = optim.split(batch, 3)
  parts = [rebuild([leaf[i] for leaf in leaves]) for i in range(3)]
  np.testing.assert_array_equal(
    [x["a"] for x in parts], [[0, 3], [1, 4], [2, 5]]
  )
  assert [x["step"] for x in parts] == [7, 7, 7]
  np.testing.assert_array_equal(optim.join(leaves[0]), batch["a"])


def test_micro_gradients_sum_to_the_whole():
  x = jnp.arange(12.0).reshape(6, 2)
  loss = lambda w, part: ((part @ w).sum() / 12, part.sum())
  whole, _ = optim.micro_gradients(loss, jnp.ones(2), x, 0)
  for micro in (1, 2, 3):
    grads, aux = optim.micro_gradients(loss, jnp.ones(2), x, micro)
    np.testing.assert_allclose(grads, whole, rtol=1e-6)
    assert aux.shape == (6 // micro,) and aux.sum() == x.sum()


def computed_and_summed(live, shards, micro=2):
  """(micro-batches computed, their sum) of 8 prompts, by what is live."""
  x = jnp.arange(1.0, 9.0)
  loss = lambda w, part: (w * (part["x"] * part["live"]).sum(), 1.0)

  @jax.jit
  def gradient(live):
    return optim.micro_gradients(
      loss, jnp.ones(()), {"x": x, "live": live}, micro, live != 0, shards
    )

  grads, computed = gradient(jnp.array(live, jnp.float32))
  np.testing.assert_array_equal(grads, (x * jnp.array(live)).sum())
  return computed.tolist(), gradient


@pytest.mark.parametrize(
  "live, shards, computed",
  [
    ([1, 1, 1, 1, 1, 1, 1, 1], 1, 4),
    ([0, 0, 1, 0, 0, 1, 0, 0], 1, 1),
    ([0, 0, 1, 0, 0, 1, 1, 0], 1, 2),
    ([0, 0, 0, 0, 0, 0, 0, 0], 1, 0),
    ([0, 1, 0, 0, 0, 1, 0, 0], 2, 1),
    ([0, 0, 0, 0, 1, 1, 1, 1], 2, 4),  # the shard that has most decides
  ],
)
def test_micro_batches_without_a_live_prompt_are_not_computed(
  live, shards, computed
):
  done, gradient = computed_and_summed(live, shards)
  assert done == [1.0] * computed + [0.0] * (4 - computed)
  gradient(jnp.ones(8))
  assert gradient._cache_size() == 1  # how many are live is no new program


def test_presets_are_valid_and_state_what_the_paper_states():
  paper, modern = presets.paper(), presets.modern()
  assert (paper.prompts * paper.group, paper.group) == (384, 8)
  rate = presets.paper_optimizer()
  assert (rate.lr, rate.schedule, rate.warmup) == (1e-5, "cosine", 0.1)
  assert (paper.beta, paper.scale, paper.clip_high) == (0.04, "group", 0.2)
  assert (modern.beta, modern.scale, modern.clip_high) == (0.0, "none", 0.28)
  assert presets.modern_optimizer().lr == 1e-6


def bfloat16_run(master, steps=40, rate=1e-4, start=1.0):
  """A parameter in bfloat16 after constant AdamW steps down, and the state."""
  cfg = config.Optimizer(
    lr=rate, warmup=0.0, schedule="constant", grad_clip=0.0, master=master
  )
  tx = optim.make(cfg, steps)
  state = optim.init(tx, {"up": jnp.full((4,), start, jnp.bfloat16)})
  apply = jax.jit(functools.partial(optim.apply, tx))
  for _ in range(steps):
    grads = jax.tree.map(jnp.ones_like, state.params)
    state, _ = apply(state, grads, jnp.ones(()))
  assert state.params["up"].dtype == jnp.bfloat16
  return state


def test_a_master_copy_keeps_updates_below_the_last_bit_of_bfloat16():
  """Half of the last bit below 1 is 2^-9: 40 steps of 1e-4 make 2 of it."""
  np.testing.assert_array_equal(bfloat16_run(False).params["up"], 1.0)
  state = bfloat16_run(True)
  copy = state.opt_state.params["up"]
  np.testing.assert_allclose(copy, 1 - 40 * 1e-4, rtol=3e-6)
  np.testing.assert_array_equal(state.params["up"], copy.astype(jnp.bfloat16))
  assert state.params["up"][0] == 1 - 2**-8


@pytest.mark.parametrize("master", [False, True])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_all_that_the_optimiser_keeps_is_float32(kind, master):
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _params())
  tx = optim.make(config.Optimizer(kind=kind, master=master), 10)
  state = jax.eval_shape(functools.partial(optim.init, tx), params)
  kept = {x.dtype.name for x in jax.tree.leaves(state.opt_state) if x.ndim}
  assert kept == {"float32"}
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree) if x.ndim)
  if kind == "adamw":
    moments = 2 * size(params)
  else:  # one moment of a matrix, two of the rest, and three coefficients
    matrices = {n: x for n, x in params["blocks"].items() if "norm" not in n}
    moments = 2 * size(params) - size(matrices) + 3
  assert size(state.opt_state) == moments + master * size(params)


def test_the_second_moment_moves_where_bfloat16_would_stand_still():
  """(1 - b2) of a gradient's square is 1/4 of the moment's last bit."""
  state = bfloat16_run(False, steps=200, rate=1e-6)
  nu = optax.tree.get(state.opt_state, "nu")["up"]
  np.testing.assert_allclose(nu, 1 - 0.999**200, rtol=1e-4)
  stuck = jnp.bfloat16(0.5)
  assert stuck * jnp.bfloat16(0.999) + jnp.bfloat16(0.001) * 0.9 == stuck


def test_micro_batches_are_summed_in_float32():
  """In bfloat16 256 + 1 is 256."""
  x = jnp.concatenate([jnp.full((1, 1), 256.0), jnp.ones((7, 1))])
  loss = lambda w, part: ((part @ w.astype(jnp.float32)).sum(), 0.0)
  w = jnp.ones(1, jnp.bfloat16)
  grads, _ = optim.micro_gradients(loss, w, x, 1)
  assert grads.dtype == jnp.float32
  np.testing.assert_array_equal(grads, 263.0)
