"""What packing saves of the update: tokens a step, and seconds.

    python -m benchmarks.packing --experiment=quickstart --median=25 --high=37
    python -m benchmarks.packing --experiment=smollm2_nq \\
      --records=nq_train.jsonl --new_tokens=96 --median=69 --high=89 --rounds=5

Prompts have the lengths of the experiment's own training prompts, its tokenizer
and template included; lengths of completions are log-normal, cut at
`new_tokens`.  `tokens` is the mean over `steps` random steps of what passes
through the layers, padding included, and its share of today's rows, of:

  real        no padding at all: the limit
  padded      each prompt in its bucket, each completion at full length
  sorted      padded, but each micro-batch has the bucket of its own longest
              prompt, prompts sorted by length (programs: one a bucket)
  segments:S  up to S prompts in a row of one bucket (first-fit decreasing),
              with S places for their groups
  packed:K    `grpo.pack=K`, as the update computes it

With `rounds`, updates on such steps are timed, the ways taking turns,
compilation left out; medians of wall and CPU time.  The decoder is random:
SmolLM2-135M's layers, and of them and of its vocabulary `layers` thirtieths.
"""

import argparse
import dataclasses
import importlib
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import refill
from grounded_jax import benchmark, config, grpo, inputs, optim, packing, types
from grounded_jax import model as model_lib
from grounded_jax import tokenizer as tokenizer_lib

_MULTIPLE = 64  # of a bucket's tokens
_SMOLLM2 = config.Decoder(
  layers=30,
  embed=576,
  mlp=1536,
  heads=9,
  kv_heads=3,
  head_dim=64,
  vocab=49152,
  rope_theta=100_000.0,
)


def prompt_lengths(name: str, records: str) -> tuple[list[int], int]:
  """(tokens of each training prompt, of their arrays) of an experiment."""
  made = importlib.import_module(f"experiments.{name}").get_config()
  data = made.data
  if records:
    train = dataclasses.replace(data.train, path=records)
    made = dataclasses.replace(
      made, data=dataclasses.replace(data, train=train)
    )
  (last,) = [i for i, s in enumerate(made.stages) if s.objective == "grpo"][-1:]
  found = inputs.training_data(made, last, tokenizer_lib.load(made.model))
  prompts, _ = found.take(0, len(found))
  return prompts.length.tolist(), prompts.tokens.shape[1]


def step(
  args: argparse.Namespace, lengths: list[int], prompt_len: int, seed: int
) -> types.Batch:
  """A step's batch of random tokens."""
  rng = np.random.default_rng(seed)
  p, g, c = args.prompts, args.group, args.new_tokens
  count = refill.lengths(p, g, seed, args.median, args.high, c)
  draw = lambda *size: rng.integers(0, 256, size, np.int32)
  return types.Batch(
    prompts=types.PromptBatch(
      tokens=draw(p, prompt_len),
      length=rng.choice(lengths, p).astype(np.int32),
      key=np.arange(p, dtype=np.int32),
    ),
    rollout=types.Rollout(
      tokens=draw(p, g, c),
      sampled=np.arange(c) < count[..., None],
      logp=np.zeros((p, g, c), np.float32),
      finished=np.ones((p, g), bool),
    ),
    advantage=rng.normal(size=(p, g)).astype(np.float32),
    weight=np.ones((p, g), np.float32),
    policy_step=np.int32(0),
  )


def _bucket(tokens: int, most: int) -> int:
  return min(-(-tokens // _MULTIPLE) * _MULTIPLE, most)


def _segment_rows(lengths: np.ndarray, room: int, slots: int) -> int:
  """Rows that first-fit decreasing needs."""
  rows = []
  for length in sorted(lengths.tolist(), reverse=True):
    for row in rows:
      if len(row) < slots and sum(row) + length <= room:
        row.append(length)
        break
    else:
      rows.append([length])
  return len(rows)


def counted(args: argparse.Namespace, batch: types.Batch) -> dict[str, int]:
  """Tokens through the layers in one step, by way."""
  p, l = batch.prompts.tokens.shape
  micro = args.micro or p
  own = args.group * (args.new_tokens - 1)
  lengths = np.sort(batch.prompts.length)[::-1]
  up = lambda count: -(-count // micro) * micro
  longest = lengths.reshape(-1, micro)[:, 0].tolist()
  sampled = batch.rollout.sampled.sum(-1)
  out = {
    "real": int(lengths.sum() + (sampled - 1).sum()),
    "padded": p * (l + own),
    "sorted": sum(micro * (_bucket(n, l) + own) for n in longest),
  }
  for slots in (2, 4):
    rows = up(_segment_rows(lengths, l, slots))
    out[f"segments:{slots}"] = rows * (l + slots * own)
  for pack in args.pack:
    packed = packing.pack(_cfg(args, pack), batch, 1)
    filled = int((packed.packing.cell[:, 0] == 0).sum())
    out[f"packed:{pack}"] = filled * packed.packing.cell.shape[1]
  return out


def _cfg(args: argparse.Namespace, pack: int) -> config.GRPO:
  return config.GRPO(
    prompts=args.prompts,
    group=args.group,
    micro=args.micro,
    pack=pack,
    max_new_tokens=args.new_tokens,
  )


def timed(
  args: argparse.Namespace, batches: list[types.Batch]
) -> dict[str, dict[str, float]]:
  """Median seconds of an update, by way, and programs compiled for it."""
  decoder = dataclasses.replace(
    _SMOLLM2, layers=args.layers, vocab=_SMOLLM2.vocab * args.layers // 30
  )
  model = config.Model(decoder=decoder, remat=args.remat)
  graphdef, params = model_lib.init(decoder, jax.random.key(0))
  tx = optim.make(benchmark.OPTIMIZER, args.rounds)
  state = optim.init(tx, params)
  ways = {"padded": 0, **{f"packed:{pack}": pack for pack in args.pack}}
  seconds, programs = {name: [] for name in ways}, {}

  def run(pack, batch, state):
    cfg = _cfg(args, pack)
    if pack:
      batch = packing.pack(cfg, batch, 1)
    batch = jax.tree.map(jnp.asarray, batch)
    state, _ = grpo.update(cfg, model, graphdef, tx, state, batch)
    return jax.block_until_ready(state)

  for name, pack in ways.items():  # compiles
    before = grpo.update._cache_size()
    for batch in batches:
      state = run(pack, batch, state)
    programs[name] = grpo.update._cache_size() - before
  for batch in batches:
    for name, pack in ways.items():
      wall, cpu = time.perf_counter(), time.process_time()
      state = run(pack, batch, state)
      seconds[name].append(
        (time.perf_counter() - wall, time.process_time() - cpu)
      )
  median = lambda name, i: statistics.median(row[i] for row in seconds[name])
  return {
    name: {
      "seconds": round(median(name, 0), 3),
      "cpu_seconds": round(median(name, 1), 3),
      "share": round(median(name, 0) / median("padded", 0), 3),
      "cpu_share": round(median(name, 1) / median("padded", 1), 3),
      "programs": programs[name],
    }
    for name in ways
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  parser.add_argument("--experiment", default="quickstart")
  parser.add_argument("--records", default="", help="a file of records")
  parser.add_argument("--prompts", type=int, default=16)
  parser.add_argument("--group", type=int, default=8)
  parser.add_argument("--micro", type=int, default=2)
  parser.add_argument("--new_tokens", type=int, default=48)
  parser.add_argument("--median", type=int, default=64, help="of completions")
  parser.add_argument("--high", type=int, default=400, help="95th percentile")
  parser.add_argument("--pack", type=int, nargs="+", default=[1, 2, 4])
  parser.add_argument("--steps", type=int, default=50, help="counted")
  parser.add_argument("--rounds", type=int, default=0, help="timed; 0 = none")
  parser.add_argument("--layers", type=int, default=2, help="of the decoder")
  parser.add_argument("--remat", default="none")
  args = parser.parse_args()
  lengths, prompt_len = prompt_lengths(args.experiment, args.records)
  make = lambda seed: step(args, lengths, prompt_len, seed)
  counts = [counted(args, make(seed)) for seed in range(args.steps)]
  mean = {name: statistics.mean(c[name] for c in counts) for name in counts[0]}
  out = {
    "prompt_tokens": [min(lengths), round(np.mean(lengths)), max(lengths)],
    "tokens": {name: round(tokens) for name, tokens in mean.items()},
    "share": {
      name: round(tokens / mean["padded"], 3) for name, tokens in mean.items()
    },
  }
  if args.rounds:
    out["update"] = timed(args, [make(seed) for seed in range(args.rounds)])
  print(json.dumps(out))


if __name__ == "__main__":
  main()
