"""The loss and the advantages equal those of TRL's GRPOTrainer.

TRL computes on given log-probabilities and rewards, through a stand-in for the
trainer object; its own code runs unchanged.
"""

import collections
import types as python_types

import grpo_cases
import jax
import numpy as np
import pytest

from grounded_jax import grpo, grpo_loss

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

pytestmark = pytest.mark.parity


@pytest.fixture(autouse=True)
def double_precision():
  before = torch.get_default_dtype()
  torch.set_default_dtype(torch.float64)
  with jax.enable_x64(True):
    yield
  torch.set_default_dtype(before)


class _Accelerator:
  num_processes = 1
  process_index = 0
  device = "cpu"
  gather = staticmethod(lambda x: x)
  reduce = staticmethod(lambda x, reduction: x)


def _trainer(logp, **options):
  """A stand-in for the trainer whose model yields `logp` [B T]."""
  defaults = {
    "loss_type": "dapo",
    "importance_sampling_level": "token",
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "beta": 0.0,
    "scale_rewards": "group",
    "multi_objective_aggregation": "sum_then_normalize",
    "vllm_importance_sampling_mode": "token_truncate",
    "vllm_importance_sampling_clip_max": 2.0,
    "use_vllm": False,
  }
  args = {"delta": None, "use_bias_correction_kl": False}
  args = {name: options.pop(name, value) for name, value in args.items()}
  fixed = {
    "_get_per_token_logps_and_entropies": lambda *_, **__: (
      logp,
      torch.zeros_like(logp.detach()),
      None,
    ),
    "args": python_types.SimpleNamespace(
      steps_per_generation=1,
      gradient_accumulation_steps=1,
      per_device_train_batch_size=1,
      gradient_checkpointing_kwargs=None,
      **args,
    ),
    "accelerator": _Accelerator(),
    "model": python_types.SimpleNamespace(
      training=True, is_gradient_checkpointing=False
    ),
    "_metrics": collections.defaultdict(lambda: collections.defaultdict(list)),
    "_logs": collections.defaultdict(list)
    | {
      "rewards": collections.defaultdict(list),
      "extra": collections.defaultdict(list),
    },
    "_pending_extra_logs": {},
    "_pending_metrics": {},
    "_tokenizer": python_types.SimpleNamespace(pad_token_id=0),
    "pad_to_multiple_of": None,
    "aux_loss_enabled": False,
    "top_entropy_quantile": 1.0,
    "off_policy_mask_threshold": None,
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_clip_min": None,
    "current_gradient_accumulation_steps": 1,
    "max_completion_length": grpo_cases.PLAIN.max_new_tokens,
    "_entropy_bonus_enabled": False,
    "mask_truncated_completions": False,
    "num_iterations": 1,
    "environments": None,
    "environment_factories": None,
    "tools": None,
    "log_multimodal": False,
  }
  return python_types.SimpleNamespace(**(defaults | fixed | options))


def _flat(x):
  return torch.tensor(np.asarray(x)).flatten(0, 1)


def _trl_loss(case, **options):
  """TRL's loss, and its gradient in the shape of case["logp"]."""
  from trl import GRPOTrainer

  logp = _flat(case["logp"]).requires_grad_()
  mask = torch.arange(logp.shape[1]) < _flat(case["length"])[:, None]
  inputs = {
    "prompt_ids": torch.zeros(len(logp), 1, dtype=torch.long),
    "prompt_mask": torch.ones(len(logp), 1, dtype=torch.long),
    "completion_ids": torch.zeros(logp.shape, dtype=torch.long),
    "completion_mask": mask.long(),
    "advantages": _flat(case["advantage"]),
    "num_items_in_batch": mask.sum(),
    "old_per_token_logps": _flat(case["old_logp"]),
    "ref_per_token_logps": _flat(case["ref_logp"]),
  }
  if options.get("use_vllm"):
    inputs["importance_sampling_ratio"] = _trl_rollout(
      case, np.zeros(case["length"].shape + (1,)), **options
    )["importance_sampling_ratio"]
  loss = GRPOTrainer._compute_loss(_trainer(logp, **options), None, inputs)
  loss.backward()
  return loss.item(), logp.grad.numpy().reshape(case["logp"].shape)


def _trl_rollout(case, rewards, **options):
  """TRL's scored rollout: advantages and importance weights of [P G R]."""
  from trl import GRPOTrainer

  p, g, parts = rewards.shape
  lengths = case["length"].flatten().tolist()
  sampler = [
    row[:n].tolist()
    for row, n in zip(_flat(case["sampler_logp"]), lengths, strict=True)
  ]
  completions = [[1] * n for n in lengths]
  prompts = [[1]] * (p * g)
  # Padding has log-probability 0 under both, as TRL's masked difference says.
  old = _flat(case["old_logp"])[:, : max(lengths)]
  trainer = _trainer(old, **options)
  trainer.num_generations = g
  trainer._generate = lambda _: (
    prompts,
    completions,
    None,
    ["text"] * (p * g),
    sampler,
    {},
    None,
    None,
  )
  trainer._calculate_rewards = lambda *_: _flat(rewards)
  trainer.reward_weights = torch.ones(parts)
  trainer.reward_funcs = trainer.reward_func_names = [
    f"part{i}" for i in range(parts)
  ]
  trainer.ref_model = trainer.model
  inputs = [{"prompt": "a question"} for _ in range(p * g)]
  return GRPOTrainer._generate_and_score_completions(trainer, inputs)


LOSSES = {
  "grpo": ({"loss_type": "grpo"}, {"aggregation": "sequence_mean"}),
  "bnpo": ({"loss_type": "bnpo"}, {"aggregation": "token_mean"}),
  "dapo": ({"loss_type": "dapo"}, {"aggregation": "token_mean"}),
  "clip_higher": ({"epsilon_high": 0.28}, {"clip_high": 0.28}),
  "dr_grpo": ({"loss_type": "dr_grpo"}, {"aggregation": "constant"}),
  "cispo": (
    {"loss_type": "cispo", "epsilon_high": 1.3},
    {"surrogate": "cispo", "cispo_cap": 1.3},
  ),
  "sequence_ratio": (
    {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    {"aggregation": "sequence_mean", "ratio": "sequence"},
  ),
  "delta": ({"delta": 1.1}, {"delta": 1.1}),
  "beta": ({"beta": 0.04}, {"beta": 0.04}),
  "beta_sequence_ratio": (
    {"beta": 0.04, "importance_sampling_level": "sequence"},
    {"beta": 0.04, "ratio": "sequence"},
  ),
  "weighted_kl": (
    {"beta": 0.04, "use_bias_correction_kl": True},
    {"beta": 0.04, "kl": "k3_weighted"},
  ),
  "token_truncate": (
    {"use_vllm": True, "vllm_importance_sampling_clip_max": 1.2},
    {"mismatch": "truncate", "mismatch_cap": 1.2},
  ),
  "sequence_mask": (
    {
      "use_vllm": True,
      "beta": 0.04,
      "vllm_importance_sampling_mode": "sequence_mask",
      "vllm_importance_sampling_clip_max": 1.2,
    },
    {"mismatch": "sequence_mask", "mismatch_cap": 1.2, "beta": 0.04},
  ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_gradient_equal_trl(name, seed):
  theirs, ours = LOSSES[name]
  case = grpo_cases.random_case(seed)
  case["length"][0, 0] = case["logp"].shape[-1]  # TRL pads to the longest
  want_loss, want_gradient = _trl_loss(case, **theirs)
  batch = grpo_cases.make_batch(**case)
  loss, gradient = grpo_cases.loss_and_gradient(
    grpo_cases.plain(**ours), case["logp"], batch
  )
  assert abs(loss - want_loss) < 1e-10
  np.testing.assert_allclose(gradient, want_gradient, rtol=0, atol=1e-10)
  assert np.abs(want_gradient).max() > 1e-3


def test_on_policy_gradient_equals_trl_without_old_logp():
  case = grpo_cases.random_case()
  case["length"][0, 0] = case["logp"].shape[-1]
  want = _trl_loss(case | {"old_logp": case["logp"]})
  batch = grpo_cases.make_batch(**(case | {"old_logp": None}))
  loss, gradient = grpo_cases.loss_and_gradient(
    grpo_cases.PLAIN, case["logp"], batch
  )
  assert abs(loss - want[0]) < 1e-10
  np.testing.assert_allclose(gradient, want[1], rtol=0, atol=1e-10)


def test_importance_weights_equal_trl():
  case = grpo_cases.random_case(3)
  case["length"][0, 0] = case["logp"].shape[-1]
  batch = grpo_cases.make_batch(**case)
  rewards = np.zeros((3, 4, 1))
  for mode, ours in (
    ("token_truncate", "truncate"),
    ("sequence_mask", "sequence_mask"),
  ):
    want = _trl_rollout(
      case,
      rewards,
      use_vllm=True,
      vllm_importance_sampling_mode=mode,
      vllm_importance_sampling_clip_max=1.1,
    )["importance_sampling_ratio"].numpy()
    got = grpo_loss.mismatch_weight(
      grpo_cases.plain(mismatch=ours, mismatch_cap=1.1),
      batch.old_logp,
      batch.rollout.logp,
      batch.rollout.sampled,
    )
    np.testing.assert_allclose(
      got.reshape(want.shape), want, rtol=0, atol=1e-12
    )
    assert 0 < (want < 1.1).mean()


ADVANTAGES = {
  "group": ({"scale_rewards": "group"}, {"scale": "group"}),
  "batch": ({"scale_rewards": "batch"}, {"scale": "batch"}),
  "none": ({"scale_rewards": "none"}, {"scale": "none"}),
  "gdpo": (
    {"multi_objective_aggregation": "normalize_then_sum"},
    {"combine": "gdpo"},
  ),
}


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages_equal_trl(name):
  theirs, ours = ADVANTAGES[name]
  case = grpo_cases.random_case(5)
  rng = np.random.default_rng(6)
  rewards = rng.integers(0, 4, (3, 4, 2)) * np.array([1.0, 0.25])
  rewards[1] = 2.0  # a group without variance
  want = _trl_rollout(case, rewards, **theirs)["advantages"].numpy()
  parts = {"match": rewards[..., 0], "cite": rewards[..., 1]}
  got = grpo.advantages(grpo_cases.plain(**ours), rewards.sum(-1), parts)
  np.testing.assert_allclose(got, want.reshape(3, 4), rtol=0, atol=1e-10)
  assert np.abs(want).max() > 0.1
