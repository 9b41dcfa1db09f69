"""A decoder with its tokenizer: prompts in, completions out.

The one place where sampled tokens become text.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grounded_jax import (
  attention,
  chips,
  config,
  hosts,
  lora,
  pipeline,
  refill,
  rewards,
  sampler,
  stops,
  types,
  weights,
)
from grounded_jax import checkpoint as checkpoint_lib
from grounded_jax import draw as draw_lib
from grounded_jax import layout as layout_lib
from grounded_jax import mesh as mesh_lib
from grounded_jax import model as model_lib
from grounded_jax import slots as slots_lib
from grounded_jax import tokenizer as tokenizer_lib
from grounded_jax.records import Completion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
  """All of a policy that training does not change."""

  model: config.Model
  graphdef: Any
  tokenizer: tokenizer_lib.Tokenizer
  rows: jax.sharding.NamedSharding  # of arrays whose first axis is P
  layout: layout_lib.Layout  # of the sampler
  base: Any = None  # with LoRA the weights, which then are not trained

  def whole(self, params: Any) -> Any:
    """All that the model reads, of the parameters that are trained."""
    return lora.attach(self.model.lora, self.base, params)

  def for_sampling(self, params: Any) -> Any:
    """What the sampler reads, of the parameters that are trained.

    A copy in its dtype and layout, if they differ: made once a rollout.
    """
    whole = self.whole(params)
    return self.layout.move(whole) if self.layout.copies else whole


def load(
  experiment: config.Experiment,
  tokenizer: tokenizer_lib.Tokenizer,
  checkpoint: pathlib.Path | None = None,
) -> tuple[Policy, Any]:
  """The policy and its parameters, laid out over the experiment's mesh.

  The parameters are those that are trained: with LoRA the adapter.

  Args:
    experiment: its model, mesh and seed (of random weights) are read.
    tokenizer: of the model.
    checkpoint: one of a run's; None = the model's own weights, and a fresh
      adapter.
  """
  cfg = experiment.model
  devices = mesh_lib.make(experiment.mesh)
  decoder = weights.decoder(cfg)
  tokenizer_lib.check(tokenizer, decoder)
  # A kernel that these devices lack is refused before weights are read.
  attention.chosen(
    cfg.attention,
    devices.devices.flat[0].platform,
    cfg.compute_dtype,
    decoder.head_dim,
    decoder.attn_softcap,
  )
  graphdef, shapes = model_lib.abstract(decoder, cfg.param_dtype)
  axes = model_lib.logical_axes(decoder)
  layout = mesh_lib.shardings(devices, axes, shapes)
  policy = Policy(
    model=cfg,
    graphdef=graphdef,
    tokenizer=tokenizer,
    rows=mesh_lib.rows(devices),
    layout=layout_lib.make(
      cfg,
      decoder,
      devices,
      experiment.mesh.sampler_tensor,
      hosts.once(lambda: chips.memory(devices.local_devices[0])),
    ),
  )
  key = jax.random.key(experiment.seed)
  if not cfg.lora.rank:
    if checkpoint is not None:
      return policy, _restore(checkpoint, shapes, layout)
    return policy, _weights(cfg, decoder, shapes, layout, key)
  base = _weights(cfg, decoder, shapes, layout, key)
  policy = dataclasses.replace(policy, base=base)
  shapes = lora.abstract(cfg.lora, shapes)
  layout = mesh_lib.shardings(
    devices, lora.logical_axes(cfg.lora, axes), shapes
  )
  if checkpoint is not None:
    return policy, _restore(checkpoint, shapes, layout)
  return policy, _spread(lora.init(shapes, key), layout)


def _restore(checkpoint: pathlib.Path, shapes: Any, layout: Any) -> Any:
  like = mesh_lib.described(shapes, layout)
  return checkpoint_lib.restore_params(checkpoint, like)


def _weights(
  cfg: config.Model,
  decoder: config.Decoder,
  shapes: Any,
  layout: Any,
  key: jax.Array,
) -> Any:
  """The model's own weights: of its files, or random without any."""
  if cfg.path:
    return weights.load(cfg, shapes, layout)
  return _spread(_random(decoder, cfg.param_dtype, key), layout)


def _spread(tree: Any, layout: Any) -> Any:
  """Arrays that every process has made alike, over all of the devices."""
  return jax.tree.map(hosts.put, tree, layout)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _random(decoder: config.Decoder, dtype: str, key: jax.Array) -> Any:
  """Random weights; for models small enough to be tried out."""
  return model_lib.init(decoder, key, dtype)[1]


def put(rows: jax.sharding.NamedSharding, tree: Any) -> Any:
  """The host arrays of `tree`, their first axis cut as `rows`.

  Every process has them whole.
  """
  whole = jax.sharding.NamedSharding(rows.mesh, jax.sharding.PartitionSpec())
  return jax.tree.map(
    lambda x: hosts.put(x, rows if np.ndim(x) else whole), tree
  )


def begin(
  policy: Policy,
  weights: Any,
  prompts: types.PromptBatch,
  *,
  seed: int,
  stage: int,
  step: int,
  purpose: int,
  group: int,
  max_new_tokens: int,
  temperature: float,
  top_k: int = 0,
  top_p: float = 1.0,
  min_p: float = 0.0,
  stop: Sequence[str] = (),
  slots: int = 0,
) -> types.Rollout:
  """G completions of each prompt, on the devices, which may still be at it.

  `weights` are those that `Policy.for_sampling` gave.
  With slots they are drawn, and ended at `stop`, when it returns.
  """
  rule = draw_lib.Rule(
    temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
  )
  address = {"seed": seed, "stage": stage, "step": step, "purpose": purpose}
  if slots:
    made = _slots(policy, rule, group, max_new_tokens, slots, prompts)
    ends = functools.partial(stops.ends_at, policy.tokenizer, stop=stop)
    rollout, _ = refill.sample(
      *(made, weights, prompts),
      stopped=ends if stop else None,
      **address,
    )
    return rollout
  return sampler.sample(
    policy.graphdef,
    weights,
    put(policy.layout.rows, prompts),
    # Arrays: as Python numbers they would compile anew for every value.
    **{name: jnp.int32(value) for name, value in address.items()},
    group=group,
    max_new_tokens=max_new_tokens,
    temperature=temperature,
    top_k=top_k,
    top_p=top_p,
    min_p=min_p,
    eos=policy.tokenizer.eos,
    model=policy.model,
  )


def _slots(
  policy: Policy,
  rule: draw_lib.Rule,
  group: int,
  max_new_tokens: int,
  slots: int,
  prompts: types.PromptBatch,
) -> slots_lib.Options:
  """What the programs of so many slots are compiled for."""
  return slots_lib.Options(
    graphdef=policy.graphdef,
    model=policy.model,
    rule=rule,
    eos=policy.tokenizer.eos,
    group=group,
    max_new_tokens=max_new_tokens,
    slots=slots,
    prompt_len=prompts.tokens.shape[1],
    admit=policy.layout.ways,
    mesh=policy.layout.mesh,
  )


def fetch(
  policy: Policy, begun: types.Rollout, stop: Sequence[str] = ()
) -> tuple[np.ndarray, types.Rollout]:
  """Which rows are this process's, and them on the host, cut at `stop`."""
  layout = policy.layout.rows
  rows = hosts.share(layout, len(begun.finished))
  rollout = hosts.fetch(begun, layout, rows)
  return rows, stops.cut(policy.tokenizer, rollout, stop)


def completions(
  policy: Policy,
  rollout: types.Rollout,
  data: config.Data,
  stop: Sequence[str] = (),
) -> list[list[Completion]]:
  """The text of each completion, [P][G], split into think and answer.

  The last token of one that a stop string ended may hold more than that: the
  text ends with it.
  """
  prefill = pipeline.prefill(policy.tokenizer, data)
  p, g, _ = rollout.tokens.shape

  def one(i: int, j: int) -> Completion:
    ids = rollout.tokens[i, j][rollout.sampled[i, j]].tolist()
    return rewards.completion(
      stops.until(policy.tokenizer.decode(ids), stop),
      finished=bool(rollout.finished[i, j]),
      tokens=len(ids),
      prefill=prefill,
      tags=data.tags,
    )

  return [[one(i, j) for j in range(g)] for i in range(p)]
