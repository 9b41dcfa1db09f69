"""What a step must compute and read, against compiled programs and by hand."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import rates, roofline
from grounded_jax import benchmark, config, counts

DECODER = config.Decoder(
  layers=2, embed=16, mlp=24, heads=4, kv_heads=2, head_dim=8, vocab=40
)
WORK = counts.Work(prompts=1, prompt_len=6, group=3, new_tokens=4)


def flops(call, *shapes):
  """Floating-point operations of the compiled program."""
  arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.jit(call).lower(*arrays).compile().cost_analysis()["flops"]


def test_matrices_of_a_group_equal_a_compiled_unrolled_model():
  d, f, v = 16, 24, 40
  tokens = 6 + 3 * 3  # the prompt once, and each completion but its last token
  layer = [(d, 32), (d, 16), (d, 16), (32, d), (d, f), (d, f), (f, d)]

  def forward(x, head, *blocks):
    sides = []
    for i in range(2):
      q, k, v, o, gate, up, down = blocks[7 * i : 7 * i + 7]
      attended = x @ q @ o
      sides += [x @ k, x @ v, attended @ up]
      x = attended @ gate @ down
    return [x[:12] @ head, *sides]

  shapes = [(tokens, d), (d, v), *layer * 2]
  ours = counts.grouped(DECODER, WORK)
  assert flops(forward, *shapes) == 2 * (ours.layers + ours.head)

  def both(cotangents, *inputs):
    out, back = jax.vjp(forward, *inputs)
    return out, back(cotangents)

  inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  lowered = jax.jit(both).lower(jax.eval_shape(forward, *inputs), *inputs)
  got = lowered.compile().cost_analysis()["flops"]
  wanted = 2 * 3 * (ours.layers + ours.head)
  assert wanted <= got <= 1.04 * wanted  # cotangents of x are added up


def test_attention_of_a_group_equals_a_compiled_unrolled_model():
  # Every query's keys, written out: its prompt, and its own completion.
  seen = [list(range(i + 1)) for i in range(6)]
  for member in range(3):
    start = 6 + 3 * member
    seen += [[*range(6), *range(start, start + i + 1)] for i in range(3)]

  def attend(q, k, v):
    out = []
    for i, keys in enumerate(seen):
      rows = jnp.array(keys)
      scores = jnp.einsum("krh,skh->krs", q[i], k[rows])
      out.append(jnp.einsum("krs,skh->krh", scores, v[rows]))
    return out

  got = flops(attend, (15, 2, 2, 8), (15, 2, 8), (15, 2, 8))
  # The first query's values are those of one key: 32 products without a sum.
  one_layer = counts.grouped(DECODER, WORK).attention / 2
  assert got + 32 == 2 * one_layer


def test_counts_by_hand():
  # q and o 16 x 32, k and v 16 x 16, gate, up and down 16 x 24.
  assert counts.layer_weights(DECODER) == 2 * 512 + 2 * 256 + 3 * 384
  got = counts.grouped(DECODER, WORK)
  assert got.layers == 2 * (6 + 9) * 2688
  # Pairs: 21 in the prompt; each completion 3 x 6 and 1 + 2 + 3.
  assert got.attention == 2 * (21 + 3 * 24) * 2 * 32
  assert got.head == 12 * 16 * 40
  assert counts.update(got) == 3 * got.total
  assert counts.plain(DECODER, WORK).layers == 2 * 3 * 9 * 2688


def test_a_group_of_one_shares_nothing():
  alone = dataclasses.replace(WORK, group=1)
  assert counts.grouped(DECODER, alone) == counts.plain(DECODER, alone)
  assert set(counts.advantage(DECODER, alone).values()) == {1.0}


def test_sampling_costs_one_grouped_pass():
  steps = [counts.decode_step(DECODER, WORK, i) for i in range(3)]
  parts = [counts.prefill(DECODER, WORK), *steps]
  whole = counts.grouped(DECODER, WORK)
  assert sum(p.layers for p in parts) == whole.layers
  assert sum(p.attention for p in parts) == whole.attention
  # The first token's logits are the prompt's, once for all three.
  assert sum(p.head for p in parts) == whole.head - 2 * 16 * 40


def test_a_decode_step_reads_weights_and_each_prompt_once():
  weights = 4 * (2 * 2688 + 16 * 40)
  assert counts.weight_bytes(DECODER) == weights
  entry = 4 * 2 * 2 * 2 * 8  # bytes: keys and values, layers, heads, head dim
  got = counts.decode_bytes(DECODER, WORK, 2)
  assert got == weights + (6 + 3 * 2) * entry
  got = counts.decode_bytes(DECODER, WORK, 2, shared=False)
  assert got == weights + (3 * 6 + 3 * 2) * entry


def test_remat_adds_passes():
  forward = counts.Forward(layers=100, attention=20, head=3)
  got = [counts.recomputed(forward, x) for x in ("none", "dots", "full")]
  assert got == [13, 13, 133]


def test_products_are_the_matrices_of_the_update():
  # Whole chunks: the head's products are then those of all predicted tokens.
  parts = rates.products(DECODER, 15, 12, 4)
  forward = counts.grouped(DECODER, WORK)
  done = sum(p.times * p.operations for p in parts)
  assert done == 2 * 3 * (forward.layers + forward.head)


def test_a_decode_step_is_bound_by_the_slower_of_bytes_and_operations():
  rate = lambda read, best: roofline.Rates(square=best, own=1.0, read=read)
  bytes_read = [counts.decode_bytes(DECODER, WORK, i) for i in range(3)]
  got = roofline.limits(DECODER, WORK, rate(1.0, 1e12), True)
  assert got["decode"] == sum(bytes_read)
  got = roofline.limits(DECODER, WORK, rate(1e12, 2.0), True)
  assert got["decode"] == pytest.approx(counts.decode(DECODER, WORK))
  assert got["update"] == counts.update(counts.grouped(DECODER, WORK))
  assert got["prefill"] == counts.prefill(DECODER, WORK).total


def report(path, **more):
  work = {"model": "tiny", "micro": 0, "remat": "none"}
  work |= dataclasses.asdict(WORK)
  found = {"work": work, "rollout_seconds": 2.0, "update_seconds": 4.0}
  path.write_text(json.dumps(found | more))
  return path


def test_shares_are_of_the_limits(tmp_path):
  (timing,) = roofline.timings(str(report(tmp_path / "r.json")))
  assert roofline.decoder(timing.work) == benchmark.TINY
  needed = 2 * counts.update(counts.grouped(benchmark.TINY, WORK))
  got = roofline.roofline(
    timing, roofline.Rates(square=needed / 2, own=needed / 3, read=1e9)
  )
  assert got["update_of_matmul_rate"] == pytest.approx(0.5)
  assert got["update_of_own_products"] == pytest.approx(0.75)
  least = got["limits"]
  assert got["rollout_of_limit"] == (least["prefill"] + least["decode"]) / 2
  assert got["decode_of_limit_at_least"] == pytest.approx(
    least["decode"] / (2 - least["prefill"])
  )


def test_runs_side_by_side_count_their_quiet_steps(tmp_path):
  step = lambda update, disturbed: {
    "rollout": 1.0,
    "update": update,
    "disturbed": disturbed,
  }
  steps = [step(9, 0), step(9, 0), step(5, 0.5), step(3, 0.0)]
  run = {"shape": "a", "system": "trl", "error": "", "steps": steps}
  path = tmp_path / "runs.json"
  path.write_text(json.dumps({"runs": [run | {"report": {"work": {}}}]}))
  (timing,) = roofline.timings(str(path))
  assert (timing.system, timing.rollout, timing.update) == ("trl", 1.0, 3)


def test_the_command_measures_and_prints(tmp_path):
  path = report(tmp_path / "r.json")
  call = [sys.executable, "-m", "benchmarks.roofline", "--square=64"]
  done = subprocess.run(
    [*call, "--repeat=1", f"--report={path}"], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert min(found["steps"][0]["rates"].values()) > 1e6
  assert found["copy_bytes_per_second"] > 1e6
  bad = subprocess.run(
    [*call, "--report=nowhere.json"], capture_output=True, text=True
  )
  assert bad.returncode == 2
  assert bad.stderr.startswith("--report=nowhere.json is no file that")
