"""What a GRPO step must compute and read, counted from its shape.

Operations are multiply-adds of matrix products; norms, rotations, softmax and
the optimiser are left out.  Counted once each:

  - every layer, over the L tokens of each prompt and the C - 1 tokens of each
    completion that predict another;
  - attention, causal and exact: a token over its prompt and, before and up to
    itself, its own completion; scores and values, N * H each for a pair;
  - the output head, where a completion's token is predicted: P * G * C;
  - a backward pass at twice the forward pass.

What an implementation computes again (`remat`) is extra, and stated apart.  A
plain step has the G sequences of a prompt as strangers, each with the prompt.
"""

import dataclasses

from grounded_jax import config

BYTES = 4  # of a float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """The shape of a step."""

  prompts: int
  prompt_len: int
  group: int
  new_tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forward:
  """Multiply-adds of one pass, by part."""

  layers: int  # the matrices of all layers
  attention: int
  head: int

  @property
  def total(self) -> int:
    return self.layers + self.attention + self.head


def layer_weights(decoder: config.Decoder) -> int:
  """The weights of one layer's matrices: the multiply-adds of a token."""
  d, n, k, h = decoder.embed, decoder.heads, decoder.kv_heads, decoder.head_dim
  return 2 * d * n * h + 2 * d * k * h + 3 * d * decoder.mlp


def _forward(
  decoder: config.Decoder, tokens: int, pairs: int, predicted: int
) -> Forward:
  """A pass over tokens that see so many keys, predicting at some of them."""
  y, width = decoder.layers, decoder.heads * decoder.head_dim
  return Forward(
    layers=tokens * y * layer_weights(decoder),
    attention=pairs * y * 2 * width,
    head=predicted * decoder.embed * decoder.vocab,
  )


def _causal(tokens: int) -> int:
  """Pairs of a token and one before or at it."""
  return tokens * (tokens + 1) // 2


def grouped(decoder: config.Decoder, work: Work) -> Forward:
  """A pass of the update in which a group shares its prompt."""
  p, l, g = work.prompts, work.prompt_len, work.group
  own = work.new_tokens - 1
  pairs = _causal(l) + g * (own * l + _causal(own))
  return _forward(
    decoder, p * (l + g * own), p * pairs, p * g * work.new_tokens
  )


def plain(decoder: config.Decoder, work: Work) -> Forward:
  """The same in which each completion has its own copy of the prompt."""
  rows = work.prompts * work.group
  tokens = work.prompt_len + work.new_tokens - 1
  return _forward(
    decoder, rows * tokens, rows * _causal(tokens), rows * work.new_tokens
  )


def update(forward: Forward) -> int:
  """Multiply-adds of the update: a forward pass, and twice that backward."""
  return 3 * forward.total


def recomputed(forward: Forward, remat: str) -> int:
  """Multiply-adds that the backward pass does again, beside the minimum.

  Attention's scores (half of its forward pass) and the logits, always; with
  `remat` "full" or "offload" the forward pass of all layers.
  """
  again = forward.attention // 2 + forward.head
  if remat in ("full", "offload"):
    again += forward.attention + forward.layers
  return again


def prefill(decoder: config.Decoder, work: Work, copies: int = 1) -> Forward:
  """Reading the prompts, each `copies` times, and their first logits."""
  rows = work.prompts * copies
  l = work.prompt_len
  return _forward(decoder, rows * l, rows * _causal(l), rows)


def decode_step(decoder: config.Decoder, work: Work, index: int) -> Forward:
  """Reading completion token `index` of every row, and the next logits."""
  rows = work.prompts * work.group
  return _forward(decoder, rows, rows * (work.prompt_len + index + 1), rows)


def decode(decoder: config.Decoder, work: Work) -> int:
  """Multiply-adds of all decode steps; the last token is never read."""
  steps = range(work.new_tokens - 1)
  return sum(decode_step(decoder, work, i).total for i in steps)


def encoder(
  *, embed: int, mlp: int, width: int, layers: int, tokens: int
) -> int:
  """Multiply-adds of a T5 encoder over one text, its MLP gated.

  Args:
    embed: of the residual stream.
    mlp: hidden units.
    width: of all heads together.
    layers: how many.
    tokens: of the text.
  """
  matrices = 4 * embed * width + 3 * embed * mlp
  return layers * (tokens * matrices + tokens**2 * 2 * width)


def weight_bytes(decoder: config.Decoder) -> int:
  """Bytes of the matrices that a decode step reads: layers and head."""
  head = decoder.embed * decoder.vocab
  return BYTES * (decoder.layers * layer_weights(decoder) + head)


def decode_bytes(
  decoder: config.Decoder, work: Work, index: int, shared: bool = True
) -> int:
  """Bytes that the decode step of completion token `index` reads.

  The weights once, the keys and values of each prompt once (for each
  completion if they are not `shared`), and the completions' own.
  """
  copies = 1 if shared else work.group
  kept = copies * work.prompt_len + work.group * index
  entry = 2 * decoder.kv_heads * decoder.head_dim * decoder.layers
  return weight_bytes(decoder) + BYTES * work.prompts * kept * entry


def advantage(decoder: config.Decoder, work: Work) -> dict[str, float]:
  """Multiply-adds of a plain step over those of a grouped one."""
  updates = [update(f(decoder, work)) for f in (plain, grouped)]
  rollouts = [
    prefill(decoder, work, copies).total + decode(decoder, work)
    for copies in (work.group, 1)
  ]
  return {
    "update": updates[0] / updates[1],
    "rollout": rollouts[0] / rollouts[1],
    "step": (updates[0] + rollouts[0]) / (updates[1] + rollouts[1]),
  }
