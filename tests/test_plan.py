"""The plan of a device's memory, against what XLA says of compiled programs."""

import json
import os
import subprocess
import sys

import jax
import plan_cases as cases
import pytest

from benchmarks.tpu_counts import QWEN3_8B
from grounded_jax import checkpoint, config, main, mesh, optim, plan
from grounded_jax import model as model_lib
from grounded_jax.records import UserError

SMALL = cases.CASES["small"]


def check(found):
  for arguments, peak in found.values():
    assert abs(arguments - 1) < 0.02
    assert abs(peak - 1) < 0.25


def machine(
  decoder: config.Decoder, devices: int = 1, cpu: bool = False, **model
) -> plan.Machine:
  cfg = config.Model(decoder=decoder, **model)
  return plan.machine(cfg, decoder, config.Mesh(), devices, cpu)


def test_arguments_and_peak_of_the_small_case_are_those_of_the_programs():
  check(cases.compare(SMALL))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*cases.CASES} - {"small", "sharded"}))
def test_arguments_and_peak_are_those_of_the_compiled_programs(name):
  check(cases.compare(cases.CASES[name]))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_state_is_counted_as_its_arrays_are(kind):
  cfg = config.Optimizer(kind=kind)
  at = machine(SMALL.decoder)
  _, params = model_lib.init(SMALL.decoder, jax.random.key(0))
  state = optim.init(optim.make(cfg, 1), params)
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
  planned = plan.update(at, cfg, SMALL.shape).arguments
  assert planned["parameters"] == size(params)
  assert planned["optimiser"] == size((state.opt_state, state.step))


def test_adapters_leave_the_weights_without_gradient_and_moments():
  adapters = config.LoRA(rank=2, targets="q")
  at = machine(SMALL.decoder, lora=adapters)
  planned = plan.update(at, config.Optimizer(), SMALL.shape)
  d, n, h = 64, 4, 16
  adapter = SMALL.decoder.layers * (d * 2 + 2 * n * h) * 4
  assert planned.arguments["frozen weights"] == mesh.held(at.params)
  assert planned.arguments["parameters"] == adapter
  assert planned.arguments["optimiser"] == 2 * adapter + 3 * 4  # three counts
  assert planned.held["gradients"] == adapter


def test_caches_hold_every_key_and_value_head_that_cannot_be_cut():
  cfg = config.Model(decoder=SMALL.decoder)  # 2 such heads
  caches = []
  for tensor in (1, 2, 4):
    cut = config.Mesh(fsdp=1, tensor=tensor)
    at = plan.machine(cfg, SMALL.decoder, cut, tensor, False)
    caches.append(plan.sampler(at, SMALL.shape).held["prompt cache"])
  assert caches[0] == 2 * caches[1] == caches[2]


def test_eight_billion_weights_take_four_bytes_each_over_64_devices():
  at = machine(QWEN3_8B, devices=64)
  weights = 8_190_735_360
  vocabulary = 2 * 151_936 * 4096
  layer = 4096 * (32 + 8 + 8) * 128 + 32 * 128 * 4096 + 3 * 4096 * 12288
  norms = 36 * (2 * 4096 + 2 * 128) + 4096
  assert weights == vocabulary + 36 * layer + norms
  # The scales of heads, 2 * 36 * 128 of them, are on every device.
  heads = 2 * 36 * 128
  assert mesh.held(at.params) == 4 * ((weights - heads) // 64 + heads)
  state = checkpoint.describe(optim.make(config.Optimizer(), 1), at.params)
  assert mesh.held(state.opt_state) == 2 * mesh.held(at.params) + 2 * 4


def test_caches_are_keys_and_values_of_every_layer_head_and_token():
  at = machine(QWEN3_8B, compute_dtype="bfloat16")
  held = plan.sampler(at, cases.shape(3, 1000, 8, 101)).held
  entry = 2 * 36 * 8 * 128 * 2  # bytes: k and v, Y, K, H, bfloat16
  assert held["prompt cache"] == 3 * 1000 * entry
  assert held["own cache"] == 3 * 8 * 100 * entry
  assert held["cast weights"] == 2 * 8_190_735_360


def test_slots_hold_a_prompt_for_each_part_and_int8_a_scale_for_each_vector():
  """Parts of 8, 4 and 2 completions; bytes: k and v, Y, K, H + 4."""
  at = machine(QWEN3_8B, compute_dtype="bfloat16", kv_dtype="int8")
  held = plan.sampler(at, cases.shape(48, 1000, 8, 101, slots=4)).held
  entry = 2 * 36 * 8 * (128 + 4)
  assert held["prompt cache"] == 4 * 3 * 1000 * entry
  assert held["own cache"] == 4 * (8 + 4 + 2) * 100 * entry


def test_recomputed_layers_keep_their_input_alone():
  at = machine(QWEN3_8B, compute_dtype="bfloat16")
  shape = cases.shape(16, 256, 8, 65, micro=2)
  stream = 36 * 2 * (256 + 8 * 64) * 4096 * 2  # Y, prompts, tokens, D, bytes
  assert plan.residuals(at, shape, "full") == (stream, 0)
  assert plan.residuals(at, shape, "offload") == (0, stream)
  dots, _ = plan.residuals(at, shape, "dots")
  every, _ = plan.residuals(at, shape, "none")
  assert stream < dots < every


def test_micro_batches_share_activations_and_add_a_gradient():
  at = machine(QWEN3_8B, remat="full")
  whole = plan.update(at, config.Optimizer(), cases.shape(4, 64, 2, 9)).held
  cut = plan.update(at, config.Optimizer(), cases.shape(4, 64, 2, 9, 1)).held
  assert cut["activations"] * 4 == whole["activations"]
  assert cut["gradients"] == 2 * whole["gradients"]


def test_a_reference_is_one_more_copy_of_the_weights_in_every_program():
  stage = config.Stage(
    name="a", grpo=config.GRPO(beta=0.04, zero_advantage="keep", prompts=4)
  )
  at = machine(SMALL.decoder)
  programs = plan.of_stage(at, stage, config.Data(max_prompt_len=64))
  for program in programs.values():
    assert program.arguments["reference"] == mesh.held(at.params)
    assert program.arguments["optimiser"] > 2 * mesh.held(at.params)


def test_one_step_off_policy_holds_one_more_copy_of_the_weights():
  stage = config.Stage(
    name="a", grpo=config.GRPO(off_policy_steps=1, prompts=4)
  )
  at = machine(SMALL.decoder)
  programs = plan.of_stage(at, stage, config.Data(max_prompt_len=64))
  for program in programs.values():
    assert program.arguments["sampling parameters"] == mesh.held(at.params)


def test_prompts_that_the_mesh_does_not_divide_are_refused():
  stage = config.Stage(name="a", grpo=config.GRPO(prompts=48, micro=16))
  at = machine(QWEN3_8B, devices=64)
  with pytest.raises(UserError, match="grpo.prompts=48 .* 64 devices"):
    plan.of_stage(at, stage, config.Data())


def test_plan_mode_says_what_takes_how_much_and_whether_it_fits(capsys):
  command = ["--mode=plan", "--config=experiments/stage1.py:smoke"]
  more = ["--devices=2", "--hbm_gb=0.5", "--config.mesh.data=2"]
  assert main.main(command + more) == 0
  out, table = capsys.readouterr()
  result = json.loads(out)
  programs = result["stages"]["stage1"]
  assert result["devices"] == 2 and result["fits"]
  peaks = [program["peak"] for program in programs.values()]
  assert result["peak_bytes"] == max(peaks) < result["hbm_bytes"] == 5e8
  update = programs["update"]
  parts = [*update["arguments"].values(), *update["held"].values()]
  assert update["peak"] == sum(parts) + max(update["working"].values())
  assert "parameters" in table and "it fits into 0.5 GB" in table


def on_eight(*command: str) -> str:
  """What a Python command prints on eight simulated devices."""
  env = os.environ | {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": os.pathsep.join(sys.path),
  }
  out = subprocess.run(
    [sys.executable, *command], env=env, capture_output=True, text=True
  )
  assert out.returncode == 0, out.stderr
  return out.stdout


@pytest.mark.slow
def test_arguments_and_peak_on_eight_devices_are_those_of_the_programs():
  check(json.loads(on_eight(cases.__file__, "sharded")))


_GRADIENTS = """
import jax, jax.numpy as jnp, numpy as np
from grounded_jax import config, mesh, model, types
decoder = config.Decoder(
  layers=2, embed=32, mlp=64, heads=2, kv_heads=1, head_dim=16, vocab=64
)
devices = mesh.make(config.Mesh())
graphdef, params = model.init(decoder, jax.random.key(0))
rng = np.random.default_rng(0)
prompts = types.PromptBatch(
  tokens=rng.integers(0, 64, (8, 16)),
  length=rng.integers(1, 17, 8),
  key=np.arange(8),
)
tokens = rng.integers(0, 64, (8, 2, 6))
toward = rng.normal(size=(8, 2, 6, 32))  # a normed state's square is constant

@jax.jit
def gradients(params, prompts, tokens):
  hidden = lambda p: model.grouped_hidden(graphdef, p, prompts, tokens)
  return jax.grad(lambda p: (hidden(p) * toward).sum())(params)

want = gradients(params, prompts, tokens)
axes = model.logical_axes(decoder)
cut = jax.device_put(params, mesh.shardings(devices, axes, params))
rows = jax.device_put((prompts, tokens), mesh.rows(devices))
lowered = gradients.lower(cut, *rows)
got = lowered.compile()(cut, *rows)
worst = lambda a, b: float(np.abs(a - np.asarray(b)).max() / np.abs(a).max())
print(max(jax.tree.leaves(jax.tree.map(worst, jax.device_get(want), got))))
print("sharding_constraint" in lowered.as_text())
"""


def test_gradients_do_not_depend_on_where_the_prompts_are():
  worst, kept = on_eight("-c", _GRADIENTS).split()
  assert float(worst) < 1e-5
  assert kept == "True"
