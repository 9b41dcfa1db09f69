"""How a step's estimate grows with chips and prompts, drawn for docs/tpu.md.

    python -m benchmarks.tpu_scaling --chips=A.json,B.json --prompts=C.json,...

The files are what --mode=compile printed: of one model and one batch on ever
more chips, and of ever longer prompts on one slice.  All seconds are estimates
of the compiler, none is measured.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags
from matplotlib.backends import backend_svg
from matplotlib.figure import Figure

from grounded_jax.records import UserError

_PARTS = ("sampler", "update")

_CHIPS = flags.DEFINE_list(
  "chips", [], "Results of one batch on several slices.", required=True
)
_PROMPTS = flags.DEFINE_list(
  "prompts", [], "Results of several prompt lengths, as TOKENS=FILE."
)
_OUT = flags.DEFINE_string("out", "docs/tpu_scaling.svg", "Where to draw.")


def parts(result: dict[str, Any]) -> dict[str, float]:
  """Seconds of a step and of its largest parts, the mean of both bounds."""
  ((_, stage),) = result["stages"].items()
  if not stage["step"]:
    return {}
  mean = lambda bounds: (bounds["least"] + bounds["most"]) / 2
  out = {"step": mean(stage["step"]["estimated_seconds"])}
  for name in _PARTS:
    out[name] = mean(stage["programs"][name]["estimated_seconds"])
  return out


def draw(
  chips: dict[int, dict[str, float]], prompts: dict[int, dict[str, float]]
) -> str:
  """Returns an SVG: seconds against chips, and against prompt tokens."""
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
  canvas = backend_svg.FigureCanvasSVG(figure)
  path = pathlib.Path(_OUT.value)
  canvas.print_svg(path)
  return str(path)


def _read(path: str) -> dict[str, Any]:
  try:
    return json.loads(pathlib.Path(path).read_text("utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path} is no result of --mode=compile: {error}."
    ) from None


def main(argv: Sequence[str]) -> None:
  """Draws, and prints where and what."""
  del argv
  results = [_read(path) for path in _CHIPS.value]
  chips = {result["devices"]: parts(result) for result in results}
  prompts = {
    int(tokens): parts(_read(path))
    for tokens, path in (item.split("=") for item in _PROMPTS.value)
  }
  path = draw(dict(sorted(chips.items())), prompts)
  print(json.dumps({"drawn": path, "chips": chips, "prompts": prompts}))


if __name__ == "__main__":
  try:
    app.run(main)
  except UserError as error:
    sys.exit(str(error))
