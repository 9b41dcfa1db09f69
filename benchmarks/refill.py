"""Tokens a second with continuous refill, and with batches that wait.

    python -m benchmarks.refill --prompts=64 --group=8 --slots=16 --rounds=3
    python -m benchmarks.refill --decoder=toy --prompt_len=8  # the counts alone

Both draw the same completions of random prompts with the benchmark's tiny
model: EOS is banned, and each completion has a length of its own, log-normal
with median 64 and 95th percentile 400, at most 512.  The batches are of as many
prompts as there are slots, each decoded until its longest completion ends.

The two take turns, so that a busy machine slows both; medians of wall time and
of the process's CPU time, compilation left out.  `steps` counts the times that
the weights are read to decode, `rows` the tokens that are decoded then, those
of completions that have ended included: they hold for any machine.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from grounded_jax import benchmark, config, draw, refill, sampler, slots, types
from grounded_jax import model as model_lib

_MEDIAN, _HIGH, _CAP = 64, 400, 512  # tokens; _HIGH is the 95th percentile
_NORMAL_95 = 1.6449  # the 95th percentile of a normal distribution
_TOY = config.Decoder(
  layers=1, embed=8, mlp=16, heads=1, kv_heads=1, head_dim=8, vocab=64
)

# From the length of each completion to their tokens, and what it took.
Way = Callable[[np.ndarray], tuple[np.ndarray, refill.Work]]


def lengths(
  prompts: int,
  group: int,
  seed: int,
  median: int = _MEDIAN,
  high: int = _HIGH,
  cap: int = _CAP,
) -> np.ndarray:
  """Tokens of each completion, log-normal, [P G].

  Args:
    prompts: P.
    group: G.
    seed: of the draw.
    median: tokens.
    high: tokens, the 95th percentile.
    cap: tokens at most.
  """
  spread = math.log(high / median) / _NORMAL_95
  normal = np.random.default_rng(seed).normal(size=(prompts, group))
  drawn = np.ceil(median * np.exp(spread * normal))
  return np.clip(drawn, 1, cap).astype(np.int32)


def _prompts(count: int, length: int) -> types.PromptBatch:
  rng = np.random.default_rng(1)
  return types.PromptBatch(
    tokens=rng.integers(0, _TOY.vocab, (count, length), np.int32),
    length=np.full(count, length, np.int32),
    key=np.arange(count, dtype=np.int32),
  )


def _static(
  args: argparse.Namespace,
  model: config.Model,
  graphdef: object,
  params: object,
) -> Way:
  """Draws batch by batch."""
  batch = _prompts(args.prompts, args.prompt_len)
  zero = jnp.int32(0)

  def one(rows: slice, limit: np.ndarray) -> np.ndarray:
    rollout = sampler.sample(
      graphdef,
      params,
      jax.tree.map(lambda x: x[rows], batch),
      seed=zero,
      stage=zero,
      step=zero,
      purpose=zero,
      group=args.group,
      max_new_tokens=_CAP,
      temperature=1.0,
      top_p=1.0,
      eos=(0,),
      ban_eos=True,
      limit=limit[rows],
      model=model,
    )
    return np.asarray(rollout.tokens)

  def run(limit):
    rows = [slice(i, i + args.slots) for i in range(0, len(limit), args.slots)]
    tokens = np.concatenate([one(r, limit) for r in rows])
    # The first token comes from the prompt.
    steps = sum(int(limit[r].max()) - 1 for r in rows)
    work = refill.Work(steps=steps, rows=steps * args.slots * args.group)
    return tokens, work

  return run


def _refill(
  args: argparse.Namespace,
  model: config.Model,
  graphdef: object,
  params: object,
) -> Way:
  """Draws with slots."""
  options = slots.Options(
    graphdef=graphdef,
    model=model,
    rule=draw.Rule(temperature=1.0, banned=(0,)),
    eos=(0,),
    group=args.group,
    max_new_tokens=_CAP,
    slots=args.slots,
    prompt_len=args.prompt_len,
    block=args.block,
  )
  batch = _prompts(args.prompts, args.prompt_len)

  def run(limit):
    rollout, work = refill.sample(
      *(options, params, jax.tree.map(lambda x: x[: len(limit)], batch)),
      seed=0,
      stage=0,
      step=0,
      purpose=0,
      limit=limit,
    )
    return rollout.tokens, work

  return run


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--decoder", choices=("tiny", "toy"), default="tiny")
  parser.add_argument("--prompts", type=int, default=64)
  parser.add_argument("--prompt_len", type=int, default=256)
  parser.add_argument("--group", type=int, default=8)
  parser.add_argument("--slots", type=int, default=16)
  parser.add_argument("--block", type=int, default=slots.BLOCK)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  decoder = {"tiny": benchmark.TINY, "toy": _TOY}[args.decoder]
  model = config.Model(decoder=decoder)
  graphdef, params = model_lib.init(decoder, jax.random.key(0))
  ways = {
    "static": _static(args, model, graphdef, params),
    "refill": _refill(args, model, graphdef, params),
  }
  limit = lengths(args.prompts, args.group, args.seed)
  for run in ways.values():  # compiles
    run(np.minimum(limit[: args.slots], 2))
  found, times = {}, {name: [] for name in ways}
  for _ in range(args.rounds):
    for name, run in ways.items():
      wall, cpu = time.perf_counter(), time.process_time()
      found[name] = run(limit)
      times[name].append(
        (time.perf_counter() - wall, time.process_time() - cpu)
      )
  tokens = int(limit.sum())
  out = {"tokens": tokens, "rounds": args.rounds}
  for name, seconds in times.items():
    wall, cpu = (
      statistics.median(column) for column in zip(*seconds, strict=True)
    )
    out[name] = {
      "tokens_per_second": round(tokens / wall, 1),
      "seconds": round(wall, 2),
      "cpu_seconds": round(cpu, 2),
      **vars(found[name][1]),
    }
  static, stream = out["static"], out["refill"]
  out["times_faster"] = {
    name: round(static[name] / stream[name], 2)
    for name in ("seconds", "cpu_seconds", "steps", "rows")
  }
  same = found["static"][0] == found["refill"][0]
  out["equal_tokens"] = float(same.mean())
  print(json.dumps(out))


if __name__ == "__main__":
  main()
