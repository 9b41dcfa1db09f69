"""What the device side passes around: arrays only, so no string enters jit.

Axes:  P prompts   G completions per prompt   L prompt length
       C completion length   Y layers   V vocab   D embed   F mlp
       N query heads   K key/value heads   H head dim

Prompts are right-padded and position = index.  Completion token i stands at
position length + i.  Left padding exists nowhere.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

# On a device, on the host, or only described (the last by `jit(...).lower`).
Array = jax.Array | np.ndarray | jax.ShapeDtypeStruct | jax.stages.ArgInfo


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptBatch:
  tokens: Int[Array, "P L"]  # right-padded
  length: Int[Array, " P"]  # tokens that count, at least 1
  key: Int[Array, " P"]  # identifies the prompt: its randomness follows it


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
  tokens: Int[Array, "P G C"]
  sampled: Bool[Array, "P G C"]  # up to and including EOS: the loss mask
  logp: Float[Array, "P G C"]  # under the sampler; 0 where not sampled
  finished: Bool[Array, "P G"]  # ended by EOS, not cut by length


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Packing:
  """Where the tokens of R rows stand in the padded cells of S groups each.

  Beyond a row's own tokens and targets the indices are beyond its cells.
  """

  cell: Int[Array, "R T"]  # in [S L+G(C-1)], the cell of each token
  target: Int[Array, "R H"]  # in [S G C], each token to be predicted


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
  """What one update learns from.

  With `packing` there are P = R*S slots for groups, S of each row; one that is
  empty has weight 0.
  """

  prompts: PromptBatch
  rollout: Rollout
  advantage: Float[Array, "P G"]
  weight: Float[Array, "P G"]  # 0 for completions left out of the loss
  policy_step: Int[Array, ""]  # the step whose parameters sampled the rollout
  old_logp: Float[Array, "P G C"] | None = None  # None: the first update on it
  ref_logp: Float[Array, "P G C"] | None = None  # None: no KL term
  packing: Packing | None = None  # None: padded

  @property
  def tokens(self) -> Int[Array, "P G C"]:
    """Those of the completions."""
    return self.rollout.tokens

  @property
  def spans(self) -> Int[Array, "P G"]:
    """How many tokens of each completion are computed."""
    return self.rollout.sampled.sum(-1) * (self.weight != 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTBatch:
  """Completions that were written: G of them share a prompt.

  Of a preference G is 2: the chosen one, then the rejected one.  With `packing`
  P is as in `Batch`.
  """

  prompts: PromptBatch
  tokens: Int[Array, "P G C"]
  weight: Float[Array, "P G C"]  # of each token in the loss; 0 = not trained
  packing: Packing | None = None  # None: padded

  @property
  def spans(self) -> Int[Array, "P G"]:
    """How many tokens of each completion are computed: to its last weight."""
    places = np.arange(1, self.tokens.shape[-1] + 1)
    return ((self.weight != 0) * places).max(-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
  params: Any  # a pytree of arrays (the model's nnx.State as a pure dict)
  opt_state: Any
  step: Int[Array, ""]  # optimiser steps taken in this stage
