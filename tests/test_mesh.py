"""The mesh: its sizes, its rules, and what it says of sizes that do not fit."""

import jax
import pytest
from jax.sharding import AxisType, PartitionSpec

from grounded_jax import config, mesh
from grounded_jax import model as model_lib
from grounded_jax.records import UserError


def of_shape(data: int, fsdp: int, tensor: int) -> jax.sharding.AbstractMesh:
  """A mesh without devices, so that sizes above one need none."""
  types = (AxisType.Auto,) * 3
  return jax.sharding.AbstractMesh((data, fsdp, tensor), mesh.AXES, types)


def test_minus_one_takes_the_devices_that_are_left():
  cfg = config.Mesh(data=2, fsdp=-1, tensor=2)
  assert mesh.sizes(cfg, 16) == (2, 4, 2)


@pytest.mark.parametrize(
  "cfg",
  [
    config.Mesh(data=3, fsdp=-1, tensor=1),
    config.Mesh(data=2, fsdp=2, tensor=1),
    config.Mesh(data=-1, fsdp=-1, tensor=1),
    config.Mesh(data=0, fsdp=-1, tensor=1),
  ],
)
def test_sizes_that_do_not_fit_the_devices_are_named(cfg):
  with pytest.raises(UserError, match=f"mesh.data={cfg.data}, mesh.fsdp"):
    mesh.sizes(cfg, 8)


def test_the_default_mesh_is_all_devices_with_auto_axes():
  made = mesh.make(config.Mesh())
  assert made.axis_names == ("data", "fsdp", "tensor")
  assert made.size == jax.device_count()
  assert set(made.axis_types) == {AxisType.Auto}


def test_every_weight_is_cut_over_fsdp_and_tensor_where_it_can_be():
  decoder = config.Decoder(tied=False)
  axes = model_lib.logical_axes(decoder)
  _, shapes = model_lib.abstract(decoder)
  cuts = mesh.shardings(of_shape(2, 2, 2), axes, shapes)
  tensor, fsdp = ("tensor",), ("fsdp",)
  assert cuts["embed"].spec == PartitionSpec(tensor, fsdp)
  assert cuts["head"].spec == PartitionSpec(fsdp, tensor)
  assert cuts["blocks"]["q"].spec == PartitionSpec(None, fsdp, tensor, None)
  assert cuts["blocks"]["k"].spec == PartitionSpec(None, fsdp, tensor, None)
  assert cuts["blocks"]["o"].spec == PartitionSpec(None, tensor, None, fsdp)
  assert cuts["blocks"]["down"].spec == PartitionSpec(None, tensor, fsdp)
  assert cuts["norm"].spec == PartitionSpec(fsdp)


def test_prompts_are_cut_over_data_and_fsdp():
  assert mesh.rows(of_shape(2, 2, 1)).spec == PartitionSpec(("data", "fsdp"))


def test_a_weight_that_does_not_divide_is_named_with_both_sizes():
  decoder = config.Decoder(heads=6, kv_heads=3)
  _, shapes = model_lib.abstract(decoder)
  axes = model_lib.logical_axes(decoder)
  message = r"blocks\.k: its axis kv_heads of size 3 .* mesh\.tensor=2: set"
  with pytest.raises(UserError, match=message + r" mesh\.tensor to 1\."):
    mesh.shardings(of_shape(1, 1, 2), axes, shapes)


def test_fewer_key_value_heads_than_devices_are_on_each_of_them():
  decoder = config.Decoder(heads=8, kv_heads=2)
  _, shapes = model_lib.abstract(decoder)
  axes = model_lib.logical_axes(decoder)
  blocks = mesh.shardings(of_shape(1, 2, 4), axes, shapes)["blocks"]
  assert blocks["k"].spec == PartitionSpec(None, ("fsdp",), None, None)
  assert blocks["q"].spec == PartitionSpec(None, ("fsdp",), ("tensor",), None)


def _sampling(room: float, tensor: int = 0, sizes=(1, 8, 1)):
  """Its sizes, for a decoder whose weights 8 devices divide."""
  decoder = config.Decoder(heads=8, kv_heads=8)
  _, shapes = model_lib.abstract(decoder)
  axes = model_lib.logical_axes(decoder)
  learner = of_shape(*sizes)
  made = mesh.sampling(learner, axes, shapes, tensor, room)
  share = mesh.held(mesh.described(shapes, mesh.shardings(made, axes, shapes)))
  return tuple(made.shape.values()), share


def test_sampling_takes_the_fewest_devices_whose_shares_of_the_weights_fit():
  sizes, whole = _sampling(float("inf"))
  assert sizes == (8, 1, 1)
  sizes, share = _sampling(whole / 2 + 1e5)
  assert sizes == (4, 1, 2)
  assert share <= whole / 2 + 1e5
  assert _sampling(1.0)[0] == (1, 1, 8)  # nothing fits: as thin as can be


def test_sampling_without_fsdp_reads_the_learners_layout():
  assert _sampling(1.0, sizes=(4, 1, 2))[0] == (4, 1, 2)


def test_a_sampler_layout_that_does_not_divide_is_told_what_would():
  assert _sampling(1.0, tensor=4)[0] == (2, 1, 4)
  with pytest.raises(UserError, match="sampler_tensor=3 .* 1 or 2 or 4 or 8"):
    _sampling(1.0, tensor=3)
  with pytest.raises(UserError, match="multiple of mesh.tensor=2: .* 2 or 4"):
    _sampling(1.0, tensor=1, sizes=(2, 2, 2))


def test_prompts_that_do_not_divide_are_named_with_both_sizes():
  with pytest.raises(UserError, match=r"grpo.prompts=6 .* 4 devices"):
    mesh.check_rows(of_shape(2, 2, 1), "grpo.prompts", 6)
  mesh.check_rows(of_shape(2, 2, 1), "grpo.prompts", 8)
