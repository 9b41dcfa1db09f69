import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grpo_cases import loss_and_gradient, make_batch, plain, random_case, tally

from grounded_jax import config, grpo, grpo_loss
from grounded_jax.records import UserError


@pytest.fixture(autouse=True)
def double_precision():
  with jax.enable_x64(True):
    yield


def one_token(ratio: float, advantage: float, cfg: config.GRPO):
  """Loss and d loss / d logp of one token at this ratio."""
  logp = np.full((1, 1, 1), -2.0)
  batch = make_batch(logp, [[advantage]], old_logp=logp - np.log(ratio))
  loss, gradient = loss_and_gradient(cfg, logp, batch)
  return loss, gradient.item()


def test_advantage_is_reward_minus_group_mean():
  rewards = np.array([[0.0, 1.0], [1.0, 1.0]])
  got = grpo.advantages(plain(), rewards)
  np.testing.assert_array_equal(got, [[-0.5, 0.5], [0.0, 0.0]])


def test_advantage_is_scaled_by_unbiased_std():
  rewards = np.array([[0.0, 1.0], [1.0, 1.0]])
  got = grpo.advantages(plain(scale="group"), rewards)
  # std of (0, 1) with ddof=1 is 1 / sqrt 2 = 0.70710678; 0.5 with ddof=0
  half = 0.5 / (0.70710678 + 1e-4)
  np.testing.assert_allclose(got, [[-half, half], [0, 0]], rtol=1e-8)
  got = grpo.advantages(plain(scale="batch"), rewards)
  # std of (0, 1, 1, 1) with ddof=1 is 1/2
  half = 0.5 / 0.5001
  np.testing.assert_allclose(got, [[-half, half], [0, 0]], rtol=1e-12)


def test_leave_one_out_compares_with_the_others():
  rewards = np.array([[0.0, 1.0, 5.0]])
  got = grpo.advantages(plain(baseline="leave_one_out"), rewards)
  np.testing.assert_allclose(got, [[0 - 3, 1 - 2.5, 5 - 0.5]])
  with pytest.raises(UserError, match="group=1 must be 2 or more"):
    plain(baseline="leave_one_out", group=1)


def test_group_of_one_has_advantage_zero_at_any_scale():
  for scale in ("group", "none"):
    got = grpo.advantages(plain(scale=scale), np.array([[3.0], [4.0]]))
    np.testing.assert_array_equal(got, [[0.0], [0.0]])


def test_gdpo_gives_every_part_the_same_say():
  # Group 1 differs in a part of span 2, group 2 in one of span 1/10: equal
  # advantages after each part is divided by its own std.
  parts = {
    "match": np.array([[0.0, 2.0], [1.0, 1.0]]),
    "cite": np.array([[0.5, 0.5], [0.0, 0.1]]),
  }
  total = parts["match"] + parts["cite"]
  got = np.asarray(grpo.advantages(plain(combine="gdpo"), total, parts))
  a = 1.0 / (np.sqrt(2) + 1e-4)
  b = 0.05 / (np.sqrt(0.005) + 1e-4)
  summed = np.array([[-a, a], [-b, b]])
  std = np.sqrt(2 * (a * a + b * b) / 3)
  np.testing.assert_allclose(got, summed / (std + 1e-4), rtol=1e-10)
  assert abs(got[1, 1] / got[0, 1] - 1) < 2e-3
  weights = {"cite": 0.5}
  half = grpo.advantages(plain(combine="gdpo"), total, parts, weights)
  np.testing.assert_allclose(half[1, 1] / half[0, 1], 0.5, rtol=2e-3)


def test_zero_advantage_is_judged_by_spread_not_by_mean():
  total = np.array([[0.3, 0.3], [0.0, 0.0], [-1.0, 1.0], [0.0, 1e-3]])
  got = grpo.zero_advantage_groups(total)
  np.testing.assert_array_equal(got, [True, True, False, False])
  weight = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
  got = grpo.zero_advantage_groups(total, weight)
  np.testing.assert_array_equal(got, [True, True, True, False])


def test_truncated_completions_weigh_nothing_if_dropped():
  finished = np.array([[True, False]])
  got = grpo.completion_weight(plain(truncated="drop"), finished)
  np.testing.assert_array_equal(got, [[1.0, 0.0]])
  got = grpo.completion_weight(plain(truncated="keep"), finished)
  np.testing.assert_array_equal(got, [[1.0, 1.0]])


@pytest.mark.parametrize(
  "ratio, advantage, loss, gradient",
  [
    (1.5, 1.0, -1.2, 0.0),  # far enough up: stop
    (0.5, 1.0, -0.5, -0.5),  # moved the wrong way: full gradient back
    (0.5, -1.0, 0.8, 0.0),  # far enough down: stop
    (1.5, -1.0, 1.5, 1.5),  # moved the wrong way: full gradient back
    (1.0, 2.0, -2.0, -2.0),
  ],
)
def test_clip_is_one_sided_for_each_sign_of_advantage(
  ratio, advantage, loss, gradient
):
  got = one_token(ratio, advantage, plain())
  np.testing.assert_allclose(got, (loss, gradient), atol=1e-12)


def test_clip_higher_moves_the_upper_bound_alone():
  cfg = plain(clip_high=0.28)
  np.testing.assert_allclose(one_token(1.5, 1.0, cfg), (-1.28, 0.0))
  np.testing.assert_allclose(one_token(0.5, -1.0, cfg), (0.8, 0.0))


def test_dual_clip_bounds_the_loss_of_negative_advantages_alone():
  cfg = plain(dual_clip=3.0)
  np.testing.assert_allclose(one_token(5.0, -1.0, cfg), (3.0, 0.0))
  np.testing.assert_allclose(one_token(2.0, -1.0, cfg), (2.0, 2.0))
  np.testing.assert_allclose(one_token(5.0, 1.0, cfg), (-1.2, 0.0))


def test_delta_bounds_the_ratio_itself():
  cfg = plain(delta=2.0)
  np.testing.assert_allclose(one_token(5.0, -1.0, cfg), (2.0, 0.0))
  np.testing.assert_allclose(one_token(1.5, -1.0, cfg), (1.5, 1.5))


def test_cispo_weight_is_capped_and_carries_no_gradient():
  cfg = plain(surrogate="cispo", cispo_cap=5.0)
  # d/dlogp of -w A logp; were w differentiated, +1 would follow at logp=-2.
  np.testing.assert_allclose(one_token(1.0, 1.0, cfg), (2.0, -1.0))
  np.testing.assert_allclose(one_token(10.0, 1.0, cfg)[1], -5.0)
  np.testing.assert_allclose(one_token(3.0, -1.0, cfg)[1], 3.0)


def test_sequence_ratio_is_the_geometric_mean_over_sampled_tokens():
  logp = np.array([[[-1.0, -1.0, 0.0]]])
  old = logp - np.array([[[0.05, 0.11, 9.0]]])  # the last was not sampled
  batch = make_batch(logp, [[1.0]], length=[[2]], old_logp=old)
  loss, gradient = loss_and_gradient(plain(ratio="sequence"), logp, batch)
  ratio = np.exp(0.08)
  np.testing.assert_allclose(loss, -ratio)
  np.testing.assert_allclose(gradient[0, 0], [-ratio / 2, -ratio / 2, 0.0])


def test_k3_is_zero_at_the_reference_and_never_negative():
  logp = np.array([[[-1.0, -2.0, -3.0]]])
  ref = np.array([[[-1.0, -1.0, -4.0]]])
  batch = make_batch(logp, [[0.0]], ref_logp=ref)
  loss, gradient = loss_and_gradient(plain(beta=0.3), logp, batch)
  kl = [0.0, np.e - 2, 1 / np.e]
  np.testing.assert_allclose(loss, 0.3 * np.mean(kl))
  want = 0.1 * (1 - np.exp(ref - logp))
  np.testing.assert_allclose(gradient, want, atol=1e-12)


def test_on_policy_gradient_is_the_policy_gradient():
  case = random_case() | {"old_logp": None}
  batch = make_batch(**case)
  sampled = np.asarray(batch.rollout.sampled)
  for options in ({}, {"surrogate": "cispo"}, {"dual_clip": 3.0}):
    _, gradient = loss_and_gradient(plain(**options), case["logp"], batch)
    want = -case["advantage"][..., None] * sampled / sampled.sum()
    np.testing.assert_allclose(gradient, want, atol=1e-12)


def test_aggregations_on_two_completions_of_length_1_and_3():
  logp = np.zeros((1, 2, 4))
  batch = make_batch(logp, [[1.0, 10.0]], length=[[1, 3]], old_logp=logp)
  want = {
    "token_mean": -(1 + 30) / 4,
    "sequence_mean": -(1 + 10) / 2,
    "constant": -(1 + 30) / (2 * 8),  # max_new_tokens = 8
  }
  for aggregation, value in want.items():
    cfg = plain(aggregation=aggregation)
    loss, _ = loss_and_gradient(cfg, logp, batch)
    np.testing.assert_allclose(loss, value)


@pytest.mark.parametrize(
  "options",
  [
    {"aggregation": "token_mean"},
    {"aggregation": "sequence_mean"},
    {"aggregation": "constant"},
    {"ratio": "sequence", "beta": 0.04, "mismatch": "sequence_mask"},
  ],
)
def test_completion_of_weight_zero_is_as_if_never_drawn(options):
  case = random_case(1, p=1, g=4)
  cfg = plain(**options)
  weight = np.array([[1.0, 1.0, 0.0, 1.0]])
  got = loss_and_gradient(cfg, case["logp"], make_batch(**case, weight=weight))
  kept = {name: x[:, [0, 1, 3]] for name, x in case.items()}
  want = loss_and_gradient(cfg, kept["logp"], make_batch(**kept))
  np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
  np.testing.assert_allclose(got[1][:, [0, 1, 3]], want[1], rtol=1e-12)
  np.testing.assert_array_equal(got[1][:, 2], 0.0)


def test_mismatch_weight_is_learner_over_sampler():
  learner = jnp.log(jnp.array([[[0.5, 0.3, 0.2]]]))
  sampler = jnp.log(jnp.array([[[0.1, 0.6, 0.9]]]))
  sampled = jnp.array([[[True, True, False]]])
  weigh = lambda cfg: grpo_loss.mismatch_weight(cfg, learner, sampler, sampled)
  got = weigh(plain(mismatch="truncate", mismatch_cap=2.0))
  np.testing.assert_allclose(got, [[[2.0, 0.5, 1.0]]])  # 5 is capped
  got = weigh(plain(mismatch="sequence_mask", mismatch_cap=3.0))
  np.testing.assert_allclose(got, [[[2.5]]])  # 5 * 0.5
  got = weigh(plain(mismatch="sequence_mask", mismatch_cap=2.0))
  np.testing.assert_allclose(got, [[[0.0]]])
  np.testing.assert_allclose(weigh(plain(mismatch="ignore")), 1.0)


def test_mismatch_is_reported_even_when_ignored():
  logp = np.zeros((1, 1, 4))
  sampler = np.array([[[0.0, 0.2, -0.05, 7.0]]])  # the last was not sampled
  batch = make_batch(logp, [[1.0]], length=[[3]], sampler_logp=sampler)
  got = tally(plain(mismatch="ignore"), logp, batch)
  mean = {name: float(x) / 3 for name, x in got.sums.items()}
  np.testing.assert_allclose(mean["mismatch_logp_abs"], 0.25 / 3)
  np.testing.assert_allclose(mean["mismatch_outside"], 1 / 3)
  kl = (np.exp(-0.2) + 0.2 - 1) + (np.exp(0.05) - 0.05 - 1)
  np.testing.assert_allclose(mean["mismatch_kl"], kl / 3)
  np.testing.assert_allclose(got.maxima["mismatch_logp_abs_max"], 0.2)
  assert mean["mismatch_weight"] == 1.0


def test_a_rollout_of_an_older_policy_is_weighed_and_not_clipped():
  """Three tokens that the learner finds 1.5, 0.5 and 4 times as likely.

  Without old_logp it is the learner as it stands, so every ratio is 1, inside
  the clip range: the loss is minus the mean of weight times advantage, and its
  gradient in logp is the same product.  The weight is capped at 2.
  """
  logp = np.log(np.array([[[0.3, 0.2, 0.4]]]))
  older = np.log(np.array([[[0.2, 0.4, 0.1]]]))
  batch = make_batch(logp, [[2.0]], sampler_logp=older)
  cfg = plain(mismatch="truncate", off_policy_steps=1)
  loss, gradient = loss_and_gradient(cfg, logp, batch)
  np.testing.assert_allclose(loss, -2 * (1.5 + 0.5 + 2) / 3, rtol=1e-12)
  wanted = -2 * np.array([[[1.5, 0.5, 2.0]]]) / 3
  np.testing.assert_allclose(gradient, wanted, rtol=1e-12)
  got = tally(cfg, logp, batch)
  mean = {name: float(x) / 3 for name, x in got.sums.items()}
  np.testing.assert_allclose(mean["mismatch_weight"], 4 / 3)
  np.testing.assert_allclose(mean["mismatch_capped"], 1 / 3)
  assert got.maxima["ratio_max"] == 1
  # The product, 3, masks the completion above a cap of 2 and not of 3.5.
  for cap, capped in ((2.0, 1.0), (3.5, 0.0)):
    cfg = plain(mismatch="sequence_mask", mismatch_cap=cap, off_policy_steps=1)
    got = tally(cfg, logp, batch)
    np.testing.assert_allclose(got.sums["mismatch_capped"] / 3, capped)
  got = tally(plain(), logp, batch)
  assert got.sums["mismatch_capped"] == 0


def test_a_second_update_is_clipped_around_the_first_one_s_policy():
  """r = pi / pi_old = 1.5, clipped to 1.2; pi_old / q = 0.5 weighs it."""
  logp, old, older = (np.log(np.full((1, 1, 1), x)) for x in (0.3, 0.2, 0.4))
  batch = make_batch(logp, [[2.0]], old_logp=old, sampler_logp=older)
  cfg = plain(mismatch="truncate", off_policy_steps=1, iterations=2)
  loss, gradient = loss_and_gradient(cfg, logp, batch)
  np.testing.assert_allclose(loss, -0.5 * 1.2 * 2, rtol=1e-12)
  np.testing.assert_allclose(gradient, 0.0)


def test_clip_fractions_count_what_has_no_gradient():
  logp = np.zeros((1, 2, 3))
  old = -np.log(np.array([[[1.5, 0.5, 1.0], [1.5, 0.5, 9.0]]]))
  batch = make_batch(logp, [[1.0, -1.0]], old_logp=old)
  got = tally(plain(dual_clip=3.0), logp, batch).sums
  _, gradient = loss_and_gradient(plain(dual_clip=3.0), logp, batch)
  assert (got["clip_high"], got["clip_low"], got["clip_dual"]) == (1, 1, 1)
  assert (gradient == 0).sum() == 3
