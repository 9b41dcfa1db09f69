"""LoRA (arXiv:2106.09685): a frozen matrix W acts as W + alpha/rank * A B.

The adapter is a tree of its own, {target: {"a": [Y in.. R], "b": [Y R out..]}},
with R the rank: it alone is trained, saved and copied.  B starts at 0, so the
policy starts as the model itself, and a reference policy is the same weights
under another adapter.

Each layer forms the sum when it needs it, as the sampler does once a rollout
and an export once: all three compute with the same matrix.  The gradients of A
and B never form that of W.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from grounded_jax import config

# The input axes of each matrix, those after the layer's.
_INPUTS = {name: 2 if name == "o" else 1 for name in config.ADAPTABLE}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapted:
  """A frozen matrix with its adapter; stands where the matrix would."""

  weight: Any  # [in.. out..], or with the layers in front
  a: Any  # [in.. R]
  b: Any  # [R out..]
  scale: float = dataclasses.field(metadata={"static": True})

  @property
  def shape(self) -> tuple[int, ...]:
    return self.weight.shape

  def layer(self, index: Int[Array, ""]) -> "Adapted":
    """One layer of a stack."""
    parts = {"weight": self.weight, "a": self.a, "b": self.b}
    return dataclasses.replace(self, **{n: x[index] for n, x in parts.items()})


def abstract(cfg: config.LoRA, params: Any) -> Any:
  """The adapter's shapes and dtypes, float32 or wider.

  Args:
    cfg: rank and targets.
    params: the model's parameters, or their description.
  """

  def leaf(weight, shape):
    wide = jnp.promote_types(weight.dtype, jnp.float32)
    return jax.ShapeDtypeStruct(shape, wide)

  out = {}
  for name in cfg.names:
    weight, cut = params["blocks"][name], 1 + _INPUTS[name]
    out[name] = {
      "a": leaf(weight, (*weight.shape[:cut], cfg.rank)),
      "b": leaf(weight, (weight.shape[0], cfg.rank, *weight.shape[cut:])),
    }
  return out


def logical_axes(cfg: config.LoRA, axes: Any) -> Any:
  """The adapter's tree of axis names, from that of the model."""
  out = {}
  for name in cfg.names:
    names, cut = axes["blocks"][name], 1 + _INPUTS[name]
    out[name] = {
      "a": (*names[:cut], "rank"),
      "b": (names[0], "rank", *names[cut:]),
    }
  return out


def init(shapes: Any, key: Array) -> Any:
  """A fresh adapter: A uniform with PEFT's spread, B zero.

  A matrix's A depends on the key and its name, not on the other targets.
  """
  out = {}
  for name, leaves in shapes.items():
    a, b = leaves["a"], leaves["b"]
    bound = math.prod(a.shape[1:-1]) ** -0.5
    of_name = jax.random.fold_in(key, config.ADAPTABLE.index(name))
    values = jax.random.uniform(of_name, a.shape, a.dtype, -bound, bound)
    out[name] = {"a": values, "b": jnp.zeros(b.shape, b.dtype)}
  return out


def attach(cfg: config.LoRA, base: Any, trained: Any) -> Any:
  """The parameters that the model reads; no array is copied.

  Args:
    cfg: the adapters, if any.
    base: the frozen parameters; None where there are no adapters.
    trained: the adapter, or all parameters where there is none.
  """
  if not cfg.rank:
    return trained
  adapted = {
    name: Adapted(
      weight=base["blocks"][name], **leaves, scale=cfg.alpha / cfg.rank
    )
    for name, leaves in trained.items()
  }
  return base | {"blocks": base["blocks"] | adapted}


def merged(params: Any) -> Any:
  """The parameters with every adapter added to its matrix."""
  return jax.tree.map(effective, params, is_leaf=_is_adapted)


def _is_adapted(leaf: Any) -> bool:
  return isinstance(leaf, Adapted)


def effective(weight: Any) -> Any:
  """W + scale * A B in float32 or wider; a plain array as it is."""
  if not _is_adapted(weight):
    return weight
  w, a, b = weight.weight, weight.a, weight.b
  # All three have the layers' axis, or none has.
  lead = w.shape[: (a.ndim - 1) + (b.ndim - 1) - w.ndim]
  rank = a.shape[-1]
  product = jnp.matmul(
    a.reshape(*lead, -1, rank),
    b.reshape(*lead, rank, -1),
    precision=jax.lax.Precision.HIGHEST,
  )
  return w.astype(product.dtype) + weight.scale * product.reshape(w.shape)


def matmul(
  x: Float[Array, "T I"], weight: Any, precision: str
) -> Float[Array, "T O"]:
  """x times a matrix of any number of axes, folded to [I O]."""
  if not _is_adapted(weight):
    w = weight.astype(x.dtype).reshape(x.shape[1], -1)
    return jnp.matmul(x, w, precision=precision)
  rank = weight.a.shape[-1]
  return _product(
    weight.scale,
    precision,
    x,
    weight.weight.reshape(x.shape[1], -1),
    weight.a.reshape(-1, rank),
    weight.b.reshape(rank, -1),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(scale, precision, x, w, a, b):
  return jnp.matmul(x, _sum(scale, x, w, a, b), precision=precision)


def _sum(scale, x, w, a, b):
  return effective(Adapted(weight=w, a=a, b=b, scale=scale)).astype(x.dtype)


def _product_fwd(scale, precision, x, w, a, b):
  return _product(scale, precision, x, w, a, b), (x, w, a, b)


def _product_bwd(scale, precision, saved, d_out):
  """With dW = x' dy:  dA = s dW B' = s x' (dy B'),  dB = s A' dW = s (x A)' dy.

  In this order the products have R columns, not those of W.
  """
  x, w, a, b = saved
  dot = functools.partial(
    jnp.matmul,
    precision=precision,
    preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
  )
  narrow = lambda y: y.astype(x.dtype)
  d_x = jnp.matmul(d_out, _sum(scale, x, w, a, b).T, precision=precision)
  d_a = scale * dot(x.T, narrow(dot(d_out, narrow(b).T)))
  d_b = scale * dot(narrow(dot(x, narrow(a))).T, d_out)
  return d_x, None, d_a.astype(a.dtype), d_b.astype(b.dtype)


_product.defvjp(_product_fwd, _product_bwd)
