"""T5's files: every leaf from its tensors, each device's part alone."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import t5_cases as cases

from grounded_jax import t5, weights
from grounded_jax.records import UserError
from grounded_jax.weights import t5_directory, table


def load(path, dtype="float32", shardings=None):
  checkpoint = weights.read_t5(str(path))
  _, shapes, _ = t5.abstract(checkpoint.shape, dtype)
  return weights.load_t5(checkpoint, shapes, shardings)


def assert_same(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("name", cases.SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_written_weights_come_back_bit_for_bit(tmp_path, name, dtype):
  shape = cases.SHAPES[name]
  _, params = cases.parameters(shape, dtype=dtype)
  weights.save_t5(tmp_path, shape, params)
  assert weights.read_t5(str(tmp_path)).shape == shape
  got = load(tmp_path, dtype)
  assert_same(got, params)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(got)} == {dtype}


def test_shards_with_an_index_equal_the_single_file(tmp_path):
  _, params = cases.parameters(cases.GATED)
  weights.save_t5(tmp_path, cases.GATED, params)
  tensors = cases.tensors(cases.GATED, params)
  where = {n: f"{i % 3}.safetensors" for i, n in enumerate(sorted(tensors))}
  for shard in set(where.values()):
    part = {n: v for n, v in tensors.items() if where[n] == shard}
    safetensors.numpy.save_file(part, tmp_path / shard)
  (tmp_path / "model.safetensors").unlink()
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": where}))
  assert_same(load(tmp_path), params)


class Recorded:
  """A tensor that notes how many of its numbers were asked for."""

  def __init__(self, value):
    self.value, self.shape, self.read = value, value.shape, 0

  def __getitem__(self, index):
    out = self.value[index]
    self.read += out.size
    return out


def test_a_part_of_a_leaf_reads_that_part_of_its_tensors_only():
  """Every leaf, with each axis whole, halved, or cut in four."""
  shape = cases.GATED
  _, params = cases.parameters(shape)
  sizes = t5_directory.sizes(shape)
  stored = cases.tensors(shape, params)
  tensors = {name: Recorded(value) for name, value in stored.items()}
  for row in t5_directory.rows(shape):
    whole = params
    for name in row.path:
      whole = whole[name]
    halves = [(slice(0, n), slice(n // 2, n)) for n in whole.shape]
    for index in itertools.product(*halves):
      for tensor in tensors.values():
        tensor.read = 0
      got = table.leaf(row, sizes, tensors.__getitem__, np.dtype("f4"), index)
      np.testing.assert_array_equal(got, whole[index])
      # The head dim is never cut by itself: its rows are read whole.
      by_head = [
        slice(None) if axis == "H" else part
        for axis, part in zip(
          row.axes.split(), index[-len(row.axes.split()) :], strict=True
        )
      ]
      least = whole[(*index[: -len(by_head)], *by_head)].size
      assert sum(tensor.read for tensor in tensors.values()) == least


def test_leaves_are_placed_as_their_shardings_say(tmp_path):
  _, params = cases.parameters(cases.GATED)
  weights.save_t5(tmp_path, cases.GATED, params)
  mesh = jax.make_mesh((1,), ("fsdp",))
  spec = jax.sharding.PartitionSpec("fsdp")
  sharding = jax.sharding.NamedSharding(mesh, spec)
  got = load(tmp_path, shardings=jax.tree.map(lambda _: sharding, params))
  assert_same(got, params)
  assert {leaf.sharding for leaf in jax.tree.leaves(got)} == {sharding}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"architectures": ["BartModel"]}, "architecture BartModel; a T5 verifier"),
    ({"model_type": "mt5"}, "model_type='mt5' is not supported"),
    ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj='gated-silu'"),
    ({"dense_act_fn": "relu"}, "dense_act_fn='relu' is not supported with"),
    ({"is_gated_act": False}, "is_gated_act=False is not supported with"),
    ({"num_beams": 4}, "num_beams=4 is not supported"),
    ({"forced_bos_token_id": 3}, "forced_bos_token_id=3 is a field that is no"),
    ({"use_experts": True}, "use_experts=True is a field that is not known"),
    ({"num_layers": 4}, "lacks the tensor encoder.block.3."),
    ({"num_decoder_layers": 1}, "14 tensors that this model has no place for"),
    ({"d_ff": 48}, r"wi_0.weight has shape \(40, 24\)"),
    ({"num_layers": 10**9}, "config.json: layers=1000000000 must be"),
    ({"num_heads": 0}, "config.json: heads=0 must be greater than 0"),
    ({"relative_attention_num_buckets": 2}, "buckets=2 must be at least 4"),
    ({"decoder_start_token_id": 96}, "start=96 must be below vocab=96"),
    ({"d_model": "24"}, "cannot be read"),
  ],
)
def test_what_a_t5_cannot_be_is_refused_by_its_field(
  tmp_path, changes, message
):
  _, params = cases.parameters(cases.GATED)
  weights.save_t5(tmp_path, cases.GATED, params)
  path = tmp_path / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  with pytest.raises(UserError, match=message):
    load(tmp_path)


def test_fields_that_change_no_forward_pass_may_stand_in_a_config(tmp_path):
  """What releases of transformers wrote beside the shape."""
  _, params = cases.parameters(cases.GATED)
  weights.save_t5(tmp_path, cases.GATED, params)
  path = tmp_path / "config.json"
  extra = {
    "n_positions": 512,
    "output_past": True,
    "torch_dtype": "float32",
    "task_specific_params": {"summarization": {"num_beams": 4}},
    "forced_eos_token_id": None,
    "dense_act_fn": "gelu_new",
    "is_gated_act": True,
    "transformers_version": "4.20.0",
  }
  path.write_text(json.dumps(json.loads(path.read_text()) | extra))
  assert weights.read_t5(str(tmp_path)).shape == cases.GATED


def test_a_stated_start_is_that_of_padding_where_none_is_stated(tmp_path):
  _, params = cases.parameters(cases.GATED)
  weights.save_t5(tmp_path, cases.GATED, params)
  path = tmp_path / "config.json"
  values = json.loads(path.read_text()) | {"pad_token_id": 7}
  del values["decoder_start_token_id"], values["scale_decoder_outputs"]
  path.write_text(json.dumps(values))
  shape = weights.read_t5(str(tmp_path)).shape
  assert (shape.start, shape.scaled) == (7, False)


@pytest.mark.parity
@pytest.mark.parametrize("name", cases.SHAPES)
@pytest.mark.parametrize("kind", ["single", "sharded", "bin", "sharded bin"])
def test_what_transformers_and_torch_save_is_read_bit_for_bit(
  tmp_path, name, kind
):
  torch = pytest.importorskip("torch")
  pytest.importorskip("transformers")
  from test_t5 import reference

  shape = cases.SHAPES[name]
  _, params = cases.parameters(shape)
  model = reference(shape, params)
  model.save_pretrained(
    tmp_path, max_shard_size="20KB" if kind == "sharded" else "1GB"
  )
  if "bin" in kind:
    (tmp_path / "model.safetensors").unlink()
    state = model.state_dict()  # with the copies of the embedding
    names = list(state)
    parts = [names[::2], names[1::2]] if "sharded" in kind else [names]
    files = [f"pytorch_model-{i}.bin" for i in range(2)]
    if "sharded" not in kind:
      files = ["pytorch_model.bin"]
    for file, part in zip(files, parts, strict=True):
      torch.save({n: state[n] for n in part}, tmp_path / file)
    where = {n: f for f, part in zip(files, parts, strict=True) for n in part}
    if "sharded" in kind:
      index = tmp_path / "pytorch_model.bin.index.json"
      index.write_text(json.dumps({"weight_map": where}))
  elif kind == "sharded":
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
  if name == "unscaled" and "bin" in kind:
    # transformers 5 calls every T5 tied: a stored head counts, copy or not.
    shape = dataclasses.replace(shape, tied=False)
    params |= {"head": params["embed"].T}
  assert weights.read_t5(str(tmp_path)).shape == shape
  assert_same(load(tmp_path), params)
