"""Devices as a mesh, and which mesh axes each logical axis is cut over.

The model names logical axes, the experiment sizes the mesh, and only this
module knows both.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)
from jaxtyping import Array, Float

from grounded_jax import config
from grounded_jax.records import UserError

AXES = ("data", "fsdp", "tensor")

# Logical axis -> mesh axes.  One that is absent is whole on every device.
RULES = {
  "batch": ("data", "fsdp"),
  "embed": ("fsdp",),
  "heads": ("tensor",),
  "kv_heads": ("tensor",),
  "mlp": ("tensor",),
  "vocab": ("tensor",),
}


def sizes(cfg: config.Mesh, devices: int) -> tuple[int, int, int]:
  """Returns the mesh's size along each axis, whose product is `devices`.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  asked = (cfg.data, cfg.fsdp, cfg.tensor)
  named = ", ".join(f"mesh.{n}={s}" for n, s in zip(AXES, asked, strict=True))
  if asked.count(-1) > 1 or any(size < 1 and size != -1 for size in asked):
    raise UserError(
      f"{named}: every size must be at least 1, and at most one may be -1"
      " (every device that is left)."
    )
  known = math.prod(size for size in asked if size != -1)
  if devices % known or (-1 not in asked and known != devices):
    raise UserError(
      f"{named} do not divide the {devices} devices: their product is {known}."
    )
  left = devices // known
  return tuple(left if size == -1 else size for size in asked)


def make(cfg: config.Mesh) -> Mesh:
  """Returns the mesh of all devices, with axes data, fsdp and tensor."""
  shape = sizes(cfg, jax.device_count())
  return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def local(cfg: config.Mesh) -> Mesh:
  """Returns a mesh of this process's own devices, or of the first of them.

  What one process asks alone must not wait for another.
  """
  devices = jax.local_devices()
  asked = (cfg.data, cfg.fsdp, cfg.tensor)
  if -1 not in asked:
    devices = devices[: math.prod(asked)]
  return jax.make_mesh(
    sizes(cfg, len(devices)),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=devices,
  )


def _is_axes(node: Any) -> bool:
  return isinstance(node, tuple)


def spec(axes: tuple[str | None, ...]) -> PartitionSpec:
  """Returns how an array with these logical axes is cut."""
  return PartitionSpec(*(RULES.get(axis) for axis in axes))


def shardings(mesh: Mesh | AbstractMesh, axes: Any, shapes: Any = None) -> Any:
  """Returns the sharding of each leaf of a tree of logical axes.

  Args:
    mesh: the devices.
    axes: a tree whose leaves are tuples of logical axis names.
    shapes: the same tree of arrays or their descriptions; given, each size is
      checked against the mesh.

  Raises:
    UserError: a size that its mesh axes do not divide.
  """
  if shapes is not None:
    jax.tree.map_with_path(
      lambda path, names, leaf: _check(mesh, path, names, leaf.shape),
      axes,
      shapes,
      is_leaf=_is_axes,
    )
  return jax.tree.map(
    lambda names: NamedSharding(mesh, spec(names)), axes, is_leaf=_is_axes
  )


def described(shapes: Any, layout: Any) -> Any:
  """Returns the descriptions of arrays, laid out as the tree of shardings."""
  return jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=where
    ),
    shapes,
    layout,
  )


def ways(mesh: Mesh | AbstractMesh, axis: str) -> int:
  """Returns in how many parts the mesh cuts a logical axis."""
  return math.prod(mesh.shape[name] for name in RULES.get(axis, ()))


def _check(
  mesh: Mesh | AbstractMesh, path: Any, axes: tuple[str, ...], shape: Any
) -> None:
  for axis, size in zip(axes, shape, strict=True):
    if size % ways(mesh, axis):
      where = jax.tree_util.keystr(path, simple=True, separator=".")
      over = " * ".join(f"mesh.{n}={mesh.shape[n]}" for n in RULES[axis])
      raise UserError(
        f"{where}: its axis {axis} of size {size} is not divisible by"
        f" {over}: change the mesh."
      )


def rows(mesh: Mesh | AbstractMesh) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is P, the prompts."""
  return NamedSharding(mesh, spec(("batch",)))


def row_ways(x: Float[Array, "P ..."]) -> int:
  """Returns in how many parts the mesh of an array within jit cuts prompts."""
  mesh = jax.typeof(x).sharding.mesh
  return ways(mesh, "batch") if mesh.axis_names == AXES else 1


def keep_rows(x: Float[Array, "P ..."]) -> Float[Array, "P ..."]:
  """Returns x with its prompts over the devices as those of a batch are.

  Left alone, the compiler may cut what it computes from weights that are cut
  over `fsdp` along `embed` instead, with every prompt on every device.
  """
  cut = row_ways(x)
  if cut == 1 or x.shape[0] % cut:
    return x
  return jax.lax.with_sharding_constraint(x, rows(jax.typeof(x).sharding.mesh))


def keep_parts(
  x: Float[Array, "S D V"], rows: Float[Array, "..."]
) -> Float[Array, "S D V"]:
  """Returns x, whose S parts are sums over the prompts of one device each.

  They stay where they are; how the rest is cut is left to the compiler.

  Args:
    x: the sums.
    rows: an array within jit that knows the mesh.
  """
  mesh = jax.typeof(rows).sharding.mesh
  if x.shape[0] == 1:
    return x
  free = PartitionSpec.UNCONSTRAINED
  cut = NamedSharding(mesh, PartitionSpec(RULES["batch"], free, free))
  return jax.lax.with_sharding_constraint(x, cut)


def gathered(x: Float[Array, "_ _"], axes: tuple[str, ...]) -> Array:
  """Returns a matrix whole on every device, but for what `tensor` cuts.

  Args:
    x: within jit.
    axes: its logical axes.
  """
  mesh = jax.typeof(x).sharding.mesh
  if mesh.axis_names != AXES or ways(mesh, "batch") == 1:
    return x
  kept = [RULES[axis] if RULES[axis] == ("tensor",) else None for axis in axes]
  cut = NamedSharding(mesh, PartitionSpec(*kept))
  return jax.lax.with_sharding_constraint(x, cut)


def platform(x: Float[Array, "..."]) -> str:
  """Returns what an array within jit is computed on: cpu, gpu or tpu.

  Its mesh knows, if it has one, of devices that are not here too.
  """
  device = jax.typeof(x).sharding.mesh.abstract_device
  return device.platform if device else jax.default_backend()


def cuda_capability(platform: str) -> tuple[int, int] | None:
  """Returns the compute capability of the GPUs here; None if not of CUDA.

  Args:
    platform: of the devices that are meant: cpu, gpu or tpu.
  """
  if platform != "gpu":
    return None
  device = jax.local_devices(backend="gpu")[0]
  if "cuda" not in device.client.platform_version:
    return None
  major, minor = device.compute_capability.split(".")
  return int(major), int(minor)


def per_device(
  function: Callable[..., Any],
  ins: tuple[tuple[str | None, ...], ...],
  outs: tuple[tuple[str | None, ...], ...],
  args: tuple[Array, ...],
) -> Any:
  """Returns function(*args), each device computing its own part of it.

  For what the compiler cannot cut, such as a kernel.  A logical axis that its
  devices do not divide is whole on each of them.

  Args:
    function: of arrays, to a tuple of arrays.
    ins: the logical axes of each argument.
    outs: those of each output.
    args: within jit; the first one knows the mesh.
  """
  mesh = jax.typeof(args[0]).sharding.mesh
  if mesh.axis_names != AXES:
    return function(*args)
  whole = {
    axis
    for axes, x in zip(ins, args, strict=True)
    for axis, size in zip(axes, x.shape, strict=True)
    if axis and size % ways(mesh, axis)
  }
  cut = lambda axes: spec(tuple(None if a in whole else a for a in axes))
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=tuple(cut(axes) for axes in ins),
    out_specs=tuple(cut(axes) for axes in outs),
    check_vma=False,  # kernels do not say over which axes they vary
  )(*args)


def check_rows(mesh: Mesh | AbstractMesh, name: str, count: int) -> None:
  """Raises UserError unless `count` prompts divide over the devices."""
  devices = ways(mesh, "batch")
  if count % devices:
    raise UserError(
      f"{name}={count} prompts are not divisible by the {devices} devices of"
      f" mesh.data={mesh.shape['data']} * mesh.fsdp={mesh.shape['fsdp']}."
    )
