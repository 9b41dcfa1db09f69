"""Log-probabilities of completion tokens, never holding [P G C V] at once.

The output head runs over chunks of tokens, forward and backward.  Of a chunk
only the log-sum-exp of each token is kept; the backward pass computes the
logits once more and goes straight to their gradient,

  d logp / d logits = (one-hot of the target - softmax) / temperature.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from grounded_jax import config, mesh, optim, types
from grounded_jax import model as model_lib
from grounded_jax import packing as packing_lib


class Scores(NamedTuple):
  """What the learner knows of each sampled token; 0 where not sampled."""

  logp: Float[Array, "P G C"]
  entropy: Float[Array, "P G C"]  # of the distribution it was drawn from
  best: Bool[Array, "P G C"]  # no token was more probable


def token_logp(
  graphdef: Any,
  params: Any,
  prompts: types.PromptBatch,
  tokens: Int[Array, "P G C"],
  sampled: Bool[Array, "P G C"],
  *,
  temperature: float,
  model: config.Model,
  packing: types.Packing | None = None,
) -> tuple[Float[Array, "P G C"], Float[Array, "P G C"]]:
  """Returns (logp, entropy) of each sampled token, as `token_scores`."""
  scores = token_scores(
    graphdef,
    params,
    prompts,
    tokens,
    sampled,
    temperature=temperature,
    model=model,
    packing=packing,
  )
  return scores.logp, scores.entropy


def token_scores(
  graphdef: Any,
  params: Any,
  prompts: types.PromptBatch,
  tokens: Int[Array, "P G C"],
  sampled: Bool[Array, "P G C"],
  *,
  temperature: float,
  model: config.Model,
  packing: types.Packing | None = None,
) -> Scores:
  """Returns logp, entropy and whether it is greedy of each sampled token.

  The distribution is softmax(logits / temperature), untruncated, as the
  sampler records it; temperature 0 (greedy) is read as 1.  The entropy
  carries no gradient.  With `packing` all is 0 but of its targets.
  """
  hidden = model_lib.grouped_hidden(
    graphdef,
    params,
    prompts,
    tokens,
    model.compute_dtype,
    model.remat,
    model.matmul_precision,
    model.attention,
    packing,
  )
  shape = tokens.shape
  if packing is None:
    p, g, c, d = hidden.shape
    hidden, target = hidden.reshape(p, g * c, d), tokens.reshape(p, g * c)
    used = None
    restore = lambda x: x.reshape(shape)
  else:
    target, used = packing_lib.targets(packing, tokens)
    restore = lambda x: packing_lib.restored(packing, x, shape)
  scores = _scored(
    graphdef, params, hidden, target, used, temperature or 1.0, model
  )
  kept = lambda x: jnp.where(sampled, x, jnp.zeros_like(x))
  return jax.tree.map(lambda x: kept(restore(x)), scores)


def micro_logp(
  graphdef: Any,
  params: Any,
  prompts: types.PromptBatch,
  tokens: Int[Array, "P G C"],
  sampled: Bool[Array, "P G C"],
  *,
  temperature: float,
  model: config.Model,
  packing: types.Packing | None = None,
  micro: int = 0,
) -> Float[Array, "P G C"]:
  """Returns the logp of `token_logp`, without a gradient, part by part.

  Args:
    graphdef: of the model.
    params: of the model.
    prompts: of all parts.
    tokens: of their completions.
    sampled: which of them count.
    temperature: of the distribution.
    model: its section.
    packing: of the rows; an empty row is not computed.
    micro: prompts of a part without packing; 0 = all at once.
  """
  part = (prompts, tokens, sampled, packing)
  count = packing_lib.micro_batches(micro, tokens, packing)
  leaves, rebuild = optim.split(part, count)

  def one(part):
    *batch, packing = part
    return token_logp(
      *(graphdef, params, *batch),
      temperature=temperature,
      model=model,
      packing=packing,
    )[0]

  def each(leaves):
    part = rebuild(leaves)
    if packing is None:
      return one(part)
    filled = packing_lib.filled(part[-1]).any()
    shape = jax.eval_shape(one, part)
    nothing = lambda part: jnp.zeros(shape.shape, shape.dtype)
    return jax.lax.cond(filled, one, nothing, part)

  return optim.join(jax.lax.map(each, leaves))


def _scored(
  graphdef: Any,
  params: Any,
  hidden: Float[Array, "P N D"],
  target: Int[Array, "P N"],
  used: Int[Array, ""] | None,
  temperature: float,
  model: config.Model,
) -> Scores:
  """The scores of N tokens of each row, or of the first `used` of them."""
  p, n, d = hidden.shape
  # Chunks run along the tokens of every row, so that the rows' axis keeps its
  # sharding.
  shards = mesh.row_ways(hidden)
  shards = shards if p % shards == 0 else 1
  width = min(max(model.logp_chunk * shards // p, 1), n)
  chunks = -(-n // width)
  pad = chunks * width - n
  hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0)))
  target = jnp.pad(target, ((0, 0), (0, pad)))
  decoder = model_lib.decoder_of(graphdef, params)
  scores = _chunked(
    _Head(
      decoder=decoder,
      temperature=temperature,
      precision=model.matmul_precision,
      shards=shards,
    ),
    model_lib.head(decoder, params),
    hidden.reshape(p, chunks, width, d).swapaxes(0, 1),
    target.reshape(p, chunks, width).swapaxes(0, 1),
    None if used is None else -(-used // width),
  )
  return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(p, -1)[:, :n], scores)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Head:
  """How hidden states become the logits of a distribution."""

  decoder: config.Decoder
  temperature: float
  precision: str
  shards: int  # parts of the prompts, one for each device that has some

  def ready(self, matrix: Array, dtype: Any) -> Array:
    """The matrix as every chunk reads it: gathered and cast once for all."""
    axes = ("vocab", "embed") if self.decoder.tied else ("embed", "vocab")
    return mesh.gathered(matrix.astype(dtype), axes)

  def logits(self, matrix: Array, hidden: Array) -> tuple[Array, Array | None]:
    """(tempered logits, d capped / d uncapped or None without a cap)."""
    out = model_lib.project(self.decoder, matrix, hidden, self.precision)
    cap, slope = self.decoder.final_softcap, None
    if cap:
      bent = jnp.tanh(out / cap)
      out, slope = cap * bent, 1 - bent * bent
    return out / self.temperature, slope

  def pull(
    self, matrix: Array, hidden: Array, d_logits: Array
  ) -> tuple[Array, Array]:
    """(d matrix [S D V] in float32 or wider, d hidden) of uncapped logits.

    Every device's share of d matrix stays by itself: summed in each chunk, the
    whole of it would cross the mesh every time.
    """
    tied = self.decoder.tied
    dot = functools.partial(
      jnp.einsum,
      precision=self.precision,
      preferred_element_type=d_logits.dtype,
    )
    d_logits = d_logits.astype(hidden.dtype)
    d_hidden = dot("pwv,vd->pwd" if tied else "pwv,dv->pwd", d_logits, matrix)
    # The narrow operand is the one to be turned.
    cut = lambda x: x.reshape(self.shards, -1, *x.shape[1:])
    d_matrix = dot("spwd,spwv->sdv", cut(hidden), cut(d_logits))
    return d_matrix, d_hidden.astype(hidden.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(
  head: _Head,
  matrix: Array,
  hidden: Float[Array, "M P W D"],
  target: Int[Array, "M P W"],
  used: Int[Array, ""] | None = None,
) -> Scores:
  """The scores of M chunks of W tokens of each prompt, [M P W] each.

  Chunks from `used` on are not computed: their scores are 0.
  """
  return _chunked_fwd(head, matrix, hidden, target, used)[0]


def _each(chunk, carry, inputs: tuple, used: Array | None, skip):
  """Scans over the chunks; from `used` on by `skip`, which computes nothing."""
  if used is None:
    return jax.lax.scan(chunk, carry, inputs)

  def one(carry, inputs):
    index, *inputs = inputs
    return jax.lax.cond(index < used, chunk, skip, carry, tuple(inputs))

  count = jnp.arange(inputs[0].shape[0])
  return jax.lax.scan(one, carry, (count, *inputs))


def _chunked_fwd(head, matrix, hidden, target, used):
  ready = head.ready(matrix, hidden.dtype)

  def chunk(_, inputs):
    states, target = inputs
    scores, _ = head.logits(ready, states)
    top = scores.max(-1)
    weights = jnp.exp(scores - top[..., None])
    mass = weights.sum(-1)
    total = top + jnp.log(mass)
    mean = jnp.sum(weights * scores, axis=-1) / mass
    chosen = jnp.take_along_axis(scores, target[..., None], axis=-1)[..., 0]
    out = Scores(logp=chosen - total, entropy=total - mean, best=chosen >= top)
    return None, (out, total)

  def skip(_, inputs):
    out = jax.eval_shape(chunk, None, inputs)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), out)

  inputs = (hidden, target)
  _, (scores, total) = _each(chunk, None, inputs, used, skip)
  return scores, (matrix, hidden, target, total, used)


def _chunked_bwd(head, saved, d_scores):
  matrix, hidden, target, total, used = saved
  ready = head.ready(matrix, hidden.dtype)

  def chunk(d_matrix, inputs):
    states, target, total, d_logp = inputs
    scores, slope = head.logits(ready, states)
    token = jax.lax.broadcasted_iota(target.dtype, scores.shape, 2)
    hit = token == target[..., None]
    d_logits = hit - jnp.exp(scores - total[..., None])
    d_logits *= d_logp[..., None] / head.temperature
    if slope is not None:
      d_logits *= slope
    more, d_states = head.pull(ready, states, d_logits)
    return mesh.keep_parts(d_matrix + more, hidden), d_states

  tied = head.decoder.tied
  shape = (head.shards, *matrix.shape[:: -1 if tied else 1])
  zeros = mesh.keep_parts(jnp.zeros(shape, total.dtype), hidden)
  inputs = (hidden, target, total, d_scores.logp)
  skip = lambda d_matrix, inputs: (d_matrix, jnp.zeros_like(inputs[0]))
  d_matrix, d_hidden = _each(chunk, zeros, inputs, used, skip)
  d_matrix = d_matrix.sum(0)
  d_matrix = d_matrix.T if tied else d_matrix
  return d_matrix.astype(matrix.dtype), d_hidden, None, None


_chunked.defvjp(_chunked_fwd, _chunked_bwd)
