"""Devices as a mesh, and which mesh axes each logical axis is cut over.

The model names logical axes, the experiment sizes the mesh, and only this
module knows both.
"""

import functools
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
from jaxtyping import Array, Float, Shaped

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
  devices = devices[: wanted(cfg, len(devices))]
  return jax.make_mesh(
    sizes(cfg, len(devices)),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=devices,
  )


def wanted(cfg: config.Mesh, devices: int) -> int:
  """Returns how many of so many devices a mesh takes: all, if one is -1."""
  asked = (cfg.data, cfg.fsdp, cfg.tensor)
  return devices if -1 in asked else min(math.prod(asked), devices)


def _is_axes(node: Any) -> bool:
  return isinstance(node, tuple)


def spec(axes: tuple[str | None, ...]) -> PartitionSpec:
  """Returns how an array with these logical axes is cut."""
  return PartitionSpec(*(RULES.get(axis) for axis in axes))


def cut(
  mesh: Mesh | AbstractMesh,
  axes: tuple[str | None, ...],
  shape: tuple[int, ...],
) -> NamedSharding:
  """Returns the sharding of an array with these axes and sizes.

  Key/value heads are whole if there are fewer than `tensor` devices.
  """
  kept = tuple(
    None if _replicated(mesh, axis, size) else axis
    for axis, size in zip(axes, shape, strict=True)
  )
  return NamedSharding(mesh, spec(kept))


def _replicated(mesh: Mesh | AbstractMesh, axis: str | None, size: int) -> bool:
  """Whether each device keeps all key/value heads: each has several readers."""
  return axis == "kv_heads" and size < ways(mesh, axis)


def shardings(mesh: Mesh | AbstractMesh, axes: Any, shapes: Any) -> Any:
  """Returns the sharding of each leaf of a tree of logical axes.

  Args:
    mesh: the devices.
    axes: a tree whose leaves are tuples of logical axis names.
    shapes: the same tree of arrays or their descriptions.

  Raises:
    UserError: a size that its mesh axes do not divide.  Key/value heads may
      be fewer than `tensor` devices: then each of these has them all.
  """

  def place(path, names, leaf):
    _check(mesh, path, names, leaf.shape)
    return cut(mesh, names, leaf.shape)

  return jax.tree.map_with_path(place, axes, shapes, is_leaf=_is_axes)


def described(shapes: Any, layout: Any) -> Any:
  """Returns the descriptions of arrays, laid out as the tree of shardings."""
  return jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=where
    ),
    shapes,
    layout,
  )


def ways(mesh: Mesh | AbstractMesh, axis: str | None) -> int:
  """Returns in how many parts the mesh cuts a logical axis."""
  return math.prod(mesh.shape[name] for name in RULES.get(axis, ()))


def _check(
  mesh: Mesh | AbstractMesh, path: Any, axes: tuple[str | None, ...], shape: Any
) -> None:
  for axis, size in zip(axes, shape, strict=True):
    if size % ways(mesh, axis) and not _replicated(mesh, axis, size):
      where = jax.tree_util.keystr(path, simple=True, separator=".")
      (name,) = RULES[axis]
      fit = [n for n in _divisors(mesh.size) if size % n == 0]
      raise UserError(
        f"{where}: its axis {axis} of size {size} is not divisible by"
        f" mesh.{name}={mesh.shape[name]}: set mesh.{name} to"
        f" {' or '.join(map(str, fit))}."
      )


def _divisors(n: int) -> list[int]:
  return [d for d in range(1, n + 1) if n % d == 0]


def sampling(
  mesh: Mesh | AbstractMesh, axes: Any, shapes: Any, tensor: int, room: float
) -> Mesh | AbstractMesh:
  """Returns the same devices with each weight over `tensor` of them alone.

  The others take prompts: no device then asks another for its part of a weight
  while it decodes.

  Args:
    mesh: the learner's.
    axes: the logical axes of the weights.
    shapes: of the weights, in the dtype that samples.
    tensor: devices that share each weight; 0 = the fewest whose shares take at
      most `room`, or the most that divide them.
    room: bytes of a device.

  Raises:
    UserError: `tensor` does not divide the devices or the weights, or is no
      multiple of `mesh.tensor`.
  """
  if not tensor and mesh.shape["fsdp"] == 1:
    return mesh
  kept = mesh.shape["tensor"]
  several = [n for n in _divisors(mesh.size) if n % kept == 0]
  if tensor and tensor not in several:
    raise UserError(
      f"mesh.sampler_tensor={tensor} must divide the {mesh.size} devices and be"
      f" a multiple of mesh.tensor={kept}: set it to"
      f" {' or '.join(map(str, several))}, or to 0."
    )
  found = mesh
  for size in [tensor] if tensor else several:
    made = _reshaped(mesh, (mesh.size // size, 1, size))
    try:
      cuts = shardings(made, axes, shapes)
    except UserError:
      if tensor:
        raise
      continue
    found = made
    if held(described(shapes, cuts)) <= room:
      break
  return found


def _reshaped(
  mesh: Mesh | AbstractMesh, sizes: tuple[int, int, int]
) -> Mesh | AbstractMesh:
  """The same devices in the same order."""
  kinds = (AxisType.Auto,) * len(sizes)
  if isinstance(mesh, AbstractMesh):
    return AbstractMesh(sizes, AXES, kinds)
  return Mesh(mesh.devices.reshape(sizes), AXES, axis_types=kinds)


def held(tree: Any) -> int:
  """Returns the bytes of a device's share of the described arrays."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def rows(mesh: Mesh | AbstractMesh) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is P, the prompts."""
  return NamedSharding(mesh, spec(("batch",)))


def row_ways(x: Shaped[Array, "P ..."]) -> int:
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gathered(x: Float[Array, "..."], axes: tuple[str | None, ...]) -> Array:
  """Returns weights whole on every device, but for what `tensor` cuts.

  Left alone, the compiler may send parts of a product's other operand, or of
  its sums, round the devices instead, many times the bytes.  The gradient is
  cut as the weights were.

  Args:
    x: within jit.
    axes: its logical axes.
  """
  mesh = jax.typeof(x).sharding.mesh
  if mesh.axis_names != AXES or ways(mesh, "batch") == 1:
    return x
  kept = tuple(
    axis if RULES.get(axis) == ("tensor",) else None for axis in axes
  )
  return jax.lax.with_sharding_constraint(x, cut(mesh, kept, x.shape))


def _gathered_fwd(x, axes):
  return gathered(x, axes), None


def _gathered_bwd(axes, _, d):
  mesh = jax.typeof(d).sharding.mesh
  if mesh.axis_names != AXES or ways(mesh, "batch") == 1:
    return (d,)
  return (jax.lax.with_sharding_constraint(d, cut(mesh, axes, d.shape)),)


gathered.defvjp(_gathered_fwd, _gathered_bwd)


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
