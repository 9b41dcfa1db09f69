"""A group's row in blocks: which block of keys a block of queries may see.

A kernel walks over pairs of blocks.  The prompt is padded to whole blocks; the
completions follow, each at a stride that is a number of blocks or that a block
is a multiple of, so that a block holds one completion or whole ones.  Pairs
that nothing can see (prompt keys after the queries, keys of another
completion) are not listed; those that the prompts' lengths or a window hide
are found out as the kernel runs.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Tokens of a block, the largest first: powers of two, multiples of the 128
# lanes of a TPU's registers.
_BLOCKS = (512, 256, 128)
# A block may make a row this much longer; a smaller one is tried if it would.
_PADDED = 1.25

Scalar = int | Array  # or one for each query of a block


def _up(count: int, size: int) -> int:
  return -(-count // size) * size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """Where the tokens of a row lie."""

  prompt_len: int  # L
  group: int  # G
  own: int  # tokens of a completion
  block: int  # queries, and keys, of a block

  @property
  def prompt(self) -> int:
    """Tokens before the first completion, padding included."""
    return _up(self.prompt_len, self.block)

  @property
  def stride(self) -> int:
    """Tokens from one completion to the next."""
    if self.own > self.block // 2:
      return _up(self.own, self.block)
    return 1 << max(self.own - 1, 0).bit_length()

  @property
  def tokens(self) -> int:
    """Tokens of the whole row."""
    return self.prompt + _up(self.group * self.stride, self.block)

  def pairs(self) -> list[tuple[int, int]]:
    """Returns (query block, key block), of a query the nearest key last."""
    before, each = self.prompt // self.block, self.stride // self.block
    out = []
    for query in range(self.tokens // self.block):
      if query < before:
        keys = range(query + 1)
      else:
        start = query - ((query - before) % each if each else 0)
        keys = [*range(before), *range(start, query + 1)]
      out += [(query, key) for key in keys]
    return out

  def lay(self, x: Float[Array, "P T N H"]) -> Float[Array, "P N _ H"]:
    """Returns the row in blocks, heads first."""
    x = x.transpose(0, 2, 1, 3)
    p, n, t, h = x.shape
    pad = lambda x, axis, size: jnp.pad(
      x, [(0, (size - x.shape[i]) * (i == axis)) for i in range(x.ndim)]
    )
    prompt = pad(x[:, :, : self.prompt_len], 2, self.prompt)
    if not self.group:
      return prompt
    own = x[:, :, self.prompt_len :].reshape(p, n, self.group, self.own, h)
    own = pad(own, 3, self.stride).reshape(p, n, -1, h)
    own = pad(own, 2, self.tokens - self.prompt)
    return jnp.concatenate([prompt, own], axis=2)

  def unlay(self, x: Float[Array, "P N _ H"]) -> Float[Array, "P T N H"]:
    """Undoes `lay`."""
    p, n, _, h = x.shape
    out = x[:, :, : self.prompt_len]
    if self.group:
      stop = self.prompt + self.group * self.stride
      own = x[:, :, self.prompt : stop].reshape(p, n, self.group, -1, h)
      own = own[:, :, :, : self.own].reshape(p, n, -1, h)
      out = jnp.concatenate([out, own], axis=2)
    return out.transpose(0, 2, 1, 3)

  def visible(
    self, query: Scalar, key: Scalar, length: Scalar, window: Scalar
  ) -> tuple[Scalar, Scalar]:
    """Returns whether any query of a block sees any key of one; whether all do.

    Args:
      query: the queries' block.
      key: the keys' block.
      length: of the prompt.  A block of queries beyond it sees nothing.
      window: positions that a query sees.
    """
    start, key_start = query * self.block, key * self.block
    inside = self._inside(query)
    least, most = inside, inside + min(self.block, self.stride or 1) - 1
    # Both ends of what a query sees grow with it.
    first, last = self._seen(start, least, key, length, window)
    stop, key_stop = start + self.block - 1, key_start + self.block - 1
    last_first, last_last = self._seen(stop, most, key, length, window)
    counts = (start >= self.prompt) | (start < length)
    some = counts & (key_start <= last_last) & (key_stop >= first)
    every = (key_start >= last_first) & (key_stop <= last)
    return some, every

  def mask(
    self, query: Scalar, key: Scalar, length: Scalar, window: Scalar
  ) -> Bool[Array, "B B"]:
    """Returns which keys of a block (rows) the queries of one (columns) see."""
    at = jax.lax.broadcasted_iota(jnp.int32, (1, self.block), 1)
    # A stride shorter than a block is a power of two.
    within = at if self.stride >= self.block else at & (self.stride - 1)
    inside = self._inside(query) + within
    first, last = self._seen(
      query * self.block + at, inside, key, length, window
    )
    keys = jax.lax.broadcasted_iota(jnp.int32, (self.block, self.block), 0)
    keys += key * self.block
    return (keys >= first) & (keys <= last)

  def _inside(self, query: Scalar) -> Scalar:
    """Where in its completion a block of completion queries begins."""
    if self.stride <= self.block:
      return 0
    begin = jnp.maximum(query * self.block - self.prompt, 0)
    return jax.lax.rem(begin, self.stride)

  def _seen(
    self,
    index: Scalar,
    inside: Scalar,
    key: Scalar,
    length: Scalar,
    window: Scalar,
  ) -> tuple[Scalar, Scalar]:
    """The first and last key that a query sees of the part a block is of.

    Args:
      index: of the query in the row.
      inside: its index in its completion, if it is of one.
      key: a block of keys: of the prompt or of the query's own completion.
      length: of the prompt.
      window: positions that the query sees.
    """
    completion = index >= self.prompt
    over = completion & (index * 0 + key * self.block < self.prompt)
    own = jnp.where(completion, index - inside, 0)
    position = jnp.where(over, length + inside, index)
    first = jnp.maximum(position - window + 1, jnp.where(over, 0, own))
    return first, jnp.where(over, length - 1, index)


def layout(prompt_len: int, tokens: int, group: int) -> Layout:
  """Returns the layout of a row in the largest blocks that pad it little."""
  own = (tokens - prompt_len) // max(group, 1)
  group = group if own else 0
  for block in _BLOCKS:
    made = Layout(prompt_len=prompt_len, group=group, own=own, block=block)
    if made.tokens <= tokens * _PADDED:
      break
  return made
