"""How a step's estimate grows with chips and prompts, drawn for docs/tpu.md.

    python -m benchmarks.tpu_scaling --chips=A.json,B.json --prompts=C.json,...

The files are what --mode=compile printed: of one model and one batch on ever
more chips, and of ever longer prompts on one slice.  All seconds are estimates
of the compiler, none is measured.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

from matplotlib.backends import backend_svg
from matplotlib.figure import Figure

from grounded_jax.records import UserError

_PARTS = ("rollout", "update")


def parts(result: dict[str, Any]) -> dict[str, float]:
  """Seconds of a step and of its two parts, the mean of both bounds."""
  ((_, stage),) = result["stages"].items()
  if not stage["step"]:
    return {}
  mean = lambda table: sum(
    table["estimated_seconds"][bound] / 2 for bound in ("least", "most")
  )
  step, update = mean(stage["step"]), mean(stage["programs"]["update"])
  return {"step": step, "rollout": step - update, "update": update}


def draw(
  path: pathlib.Path,
  chips: dict[int, dict[str, float]],
  prompts: dict[int, dict[str, float]],
) -> None:
  """Draws an SVG: seconds against chips, and against prompt tokens."""
  figure = Figure(figsize=(8.0, 3.4), layout="constrained")
  left, right = figure.subplots(1, 2)
  for axes, points in ((left, chips), (right, prompts)):
    points = {x: y for x, y in sorted(points.items()) if y}
    for name in ("step", *_PARTS):
      values = [y[name] for y in points.values()]
      axes.plot([*points], values, marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks([*points], [f"{x:,}" for x in points])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.spines[["top", "right"]].set_visible(False)
  first = next(iter(chips))
  ideal = [chips[first]["step"] * first / x for x in chips]
  left.plot([*chips], ideal, color="0.6", linestyle="--", label="halved")
  left.set_xlabel("chips")
  left.set_ylabel("estimated seconds")
  right.set_xlabel("prompt tokens")
  left.legend(frameon=False)
  backend_svg.FigureCanvasSVG(figure).print_svg(path)


def _read(path: str) -> dict[str, Any]:
  try:
    return json.loads(pathlib.Path(path).read_text("utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path} is no result of --mode=compile: {error}."
    ) from None


def main() -> int:
  """Draws, and prints what."""
  flags = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  flags.add_argument("--chips", required=True, help="FILE,FILE,...")
  flags.add_argument("--prompts", required=True, help="TOKENS=FILE,...")
  flags.add_argument("--out", default="docs/tpu_scaling.svg")
  args = flags.parse_args()
  try:
    results = [_read(path) for path in args.chips.split(",")]
    chips = {result["devices"]: parts(result) for result in results}
    prompts = {
      int(tokens): parts(_read(path))
      for tokens, path in (item.split("=") for item in args.prompts.split(","))
    }
    draw(pathlib.Path(args.out), dict(sorted(chips.items())), prompts)
  except UserError as error:
    print(error, file=sys.stderr)
    return 2
  print(json.dumps({"chips": chips, "prompts": prompts}))
  return 0


if __name__ == "__main__":
  sys.exit(main())
