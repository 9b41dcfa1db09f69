"""Where the sampler's weights lie, and the one move there of each rollout.

The learner keeps float32 weights cut over `fsdp`, which a decoder would gather
at every token.  The sampler reads a copy in its own dtype, each weight cut over
`tensor` alone, on the same devices.
"""

import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from grounded_jax import config, lora, sampler
from grounded_jax import mesh as mesh_lib
from grounded_jax import model as model_lib

# Of a device's memory, what the sampler's weights may take: beside them lie
# the learner's state and the caches.
_SHARE = 1 / 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """The sampler's weights over the devices."""

  mesh: Mesh | AbstractMesh
  params: Any  # described arrays
  source: Any  # shardings of the learner's weights, adapters apart
  copies: bool  # False = the sampler reads the learner's own arrays

  @property
  def rows(self) -> NamedSharding:
    """Of arrays whose first axis is P."""
    return mesh_lib.rows(self.mesh)

  @property
  def ways(self) -> int:
    """In how many parts the devices cut the prompts."""
    return mesh_lib.ways(self.mesh, "batch")

  @functools.cached_property
  def move(self) -> Any:
    """The jitted function from the learner's weights to the sampler's."""
    to = jax.tree.map(lambda x: x.sharding, self.params)
    dtypes = jax.tree.map(lambda x: x.dtype, self.params)

    def moved(params):
      # Narrow first, where they lie: half as many bytes cross the mesh.
      params = jax.tree.map(
        lambda x, dtype, at: jax.lax.with_sharding_constraint(
          x.astype(dtype), at
        ),
        lora.merged(params),
        dtypes,
        self.source,
      )
      return jax.lax.optimization_barrier(params)

    return jax.jit(moved, out_shardings=to)


def make(
  model: config.Model,
  decoder: config.Decoder,
  mesh: Mesh | AbstractMesh,
  tensor: int,
  memory: int | None,
) -> Layout:
  """Returns the sampler's layout beside a learner's.

  Args:
    model: its dtypes and adapters are read.
    decoder: the sizes.
    mesh: the learner's.
    tensor: `mesh.sampler_tensor`.
    memory: bytes of a device; None = unknown, and taken to be enough.

  Raises:
    UserError: `tensor` does not fit the devices or the weights.
  """
  _, shapes = model_lib.abstract(decoder, model.param_dtype)
  axes = model_lib.logical_axes(decoder)
  cast = functools.partial(sampler.cast, dtype=model.sampling_dtype)
  narrow = jax.eval_shape(cast, shapes)
  room = float("inf") if memory is None else memory * _SHARE
  made = mesh_lib.sampling(mesh, axes, narrow, tensor, room)
  layout = mesh_lib.shardings(made, axes, narrow)
  same = jax.tree.map(lambda a, b: a.dtype == b.dtype, narrow, shapes)
  return Layout(
    mesh=made,
    params=mesh_lib.described(narrow, layout),
    source=mesh_lib.shardings(mesh, axes, shapes),
    copies=made != mesh
    or bool(model.lora.rank)
    or not all(jax.tree.leaves(same)),
  )
