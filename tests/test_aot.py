"""Programs compiled for TPUs that are not here."""

import dataclasses

import jax
import pytest

from grounded_jax import aot, attention_blocks, config, counts, plan, topology
from grounded_jax import t5 as t5_lib
from grounded_jax.records import UserError
from grounded_jax.weights import t5_directory

DECODER = config.Decoder(
  layers=4, embed=256, mlp=512, heads=4, kv_heads=4, head_dim=64, vocab=1024
)
SHAPE = plan.Shape(
  prompts=8,
  prompt_len=256,
  group=2,
  new_tokens=65,
  micro=0,
  chunks=1,
  extra_logp=0,
  supervised=False,
)
STAGE = config.Stage(
  name="one",
  grpo=config.GRPO(prompts=8, group=2, max_new_tokens=65),
  optimizer=config.Optimizer(),
)


def target(layout: config.Mesh, **options) -> aot.Target:
  model = config.Model(decoder=DECODER, compute_dtype="bfloat16", **options)
  return aot.target(model, DECODER, aot.mesh("v5e:2x2", layout))


@pytest.fixture(autouse=True)
def _compiler(monkeypatch):
  """TPUs as their compiler's library describes them, asking no server."""
  pytest.importorskip("libtpu", reason="needs the extra [tpu]")
  for name, value in (
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
  ):
    monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_offload_moves_the_residual_stream_to_the_host_and_back():
  device, host = (
    aot.compile(
      aot.lower_update(target(config.Mesh(), remat=remat), STAGE, SHAPE)
    )
    for remat in ("full", "offload")
  )
  # Of one of four devices, in bfloat16.
  stream = 4 * 2 * (256 + 2 * 64) * 256 * 2
  assert device.memory["host"] == 0 == device.counts.total().host
  assert host.memory["host"] == stream
  assert host.counts.total().host == 2 * stream  # there and back


@pytest.mark.slow
def test_no_weights_move_while_decoding_if_they_are_cut_over_heads():
  layout = config.Mesh(data=2, fsdp=1, tensor=2)
  drawn = aot.compile(aot.lower_sampler(target(layout), SHAPE))
  step = drawn.decode_step()
  assert aot.moved(step) == {}
  assert [loop.trips for loop in step.loops] == [4]  # layers
  assert len(drawn.table()["loops_of_unknown_length"]) == 1


@pytest.mark.slow
def test_an_experiment_becomes_a_table_of_each_stage():
  supervised = config.Stage(
    name="two",
    objective="sft",
    sft=config.SFT(prompts=8, max_new_tokens=33),
  )
  experiment = config.Experiment(
    name="e",
    model=config.Model(decoder=DECODER, compute_dtype="bfloat16"),
    data=config.Data(max_prompt_len=128),
    stages=(STAGE, supervised),
  )
  found = topology.run(experiment, "v5e:2x2")
  stages = found["stages"]
  assert {name: set(stage["programs"]) for name, stage in stages.items()} == {
    "one": {"init", "reshard", "sampler", "logp", "update"},
    "two": {"init", "update"},
  }
  assert found["fits"]
  for stage in stages.values():
    update = stage["programs"]["update"]
    assert 0 < update["memory_bytes"]["peak"] < 16 << 30
    assert 0 < update["estimated_utilisation"]["least"]
    assert update["estimated_utilisation"]["most"] < 1
    seconds = stage["step"]["estimated_seconds"]
    assert 0 < seconds["least"] <= seconds["most"]
  sampler = stages["one"]["programs"]["sampler"]
  assert sampler["decode_step"]["arguments_moved"] == {}
  small = dataclasses.replace(STAGE.grpo, prompts=6)
  odd = dataclasses.replace(STAGE, grpo=small)
  with pytest.raises(UserError, match="6 prompts are not divisible by the 4"):
    topology.run(dataclasses.replace(experiment, stages=(odd,)), "v5e:2x2")


@pytest.mark.slow
def test_an_update_counts_its_kernels_as_the_work_that_they_are():
  """To the last operation, and near the minimum, as XLA's attention is."""
  decoder = config.Decoder(
    layers=2, embed=256, mlp=8192, heads=2, kv_heads=1, head_dim=64, vocab=1024
  )
  # Of each device one prompt and, of two completions, two whole chunks of
  # logits; the compiler would compute those of one chunk once only.
  shape = dataclasses.replace(SHAPE, prompts=4, prompt_len=512, new_tokens=256)
  flops = {}
  for kernel in ("xla", "pallas"):
    model = config.Model(
      decoder=decoder,
      compute_dtype="bfloat16",
      attention=kernel,
      logp_chunk=256,
    )
    at = aot.target(model, decoder, aot.mesh("v5e:2x2", config.Mesh()))
    found = aot.compile(aot.lower_update(at, STAGE, shape))
    flops[kernel] = found.counts.total().flops
  # The first block of 512 is the prompt, the second both completions.
  row = attention_blocks.layout(512, 512 + 2 * 255, 2)
  assert (row.block, row.pairs()) == (512, [(0, 0), (1, 0), (1, 1)])
  # Two products of scores forward, seven backward, of 2 heads and 2 layers.
  kernels = 2 * 9 * (2 * 2 * 64) * 3 * 512**2
  work = counts.Work(prompts=1, prompt_len=512, group=2, new_tokens=256)
  forward = counts.grouped(decoder, work)
  # Logits are computed again; two operations a multiply-add.
  rest = 2 * (3 * forward.layers + 4 * forward.head)
  assert flops["pallas"] == rest + kernels
  least = 2 * (counts.update(forward) + counts.recomputed(forward, model.remat))
  assert least < flops["xla"] < flops["pallas"] < 1.05 * least


@pytest.mark.slow
def test_a_verifier_is_cut_over_the_chips_of_one_host(tmp_path):
  """Four of a slice's sixteen hold it whole, beside the policy."""
  shape = t5_lib.Shape(
    embed=256, mlp=512, heads=4, layers=2, decoder_layers=2, vocab=512
  )
  _, params = t5_lib.init(shape, jax.random.key(0), "float32")
  t5_directory.save(tmp_path, shape, params)
  judge = config.Verifier(kind="t5", path=str(tmp_path), batch_tokens=2048)
  host = aot.host("v5e:4x4", judge.mesh)
  assert dict(host.shape) == {"data": 1, "fsdp": 4, "tensor": 1}
  program = topology.verifier(host, judge)
  found = aot.compile(program.lower())
  weights = 2 * sum(leaf.size for leaf in jax.tree.leaves(params))
  # A quarter, and the padding of small tables to whole tiles.
  assert weights / 4 < found.memory["arguments"] < weights / 2
  # The decoder's one token is hardly any work beside the encoder's 512.
  flops = found.counts.total().flops
  assert program.needed < flops < 1.25 * program.needed


def test_a_topology_that_does_not_exist_is_named():
  with pytest.raises(UserError, match="v5e:1x7x3"):
    aot.mesh("v5e:1x7x3", config.Mesh())
