"""The tables of docs/tpu.md from what --mode=compile printed.

    python -m benchmarks.tpu_table runs/tpu/*.json

Each file is named for its slice (configs/pods.py).
"""

import json
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

_HEAD = (
  *("slice", "chips, fsdp x tensor, sampler's tensor", "program"),
  *("peak GB", "besides GB", "TFLOP", "traffic GB", "collectives GB", "beside"),
  *("est. s", "est. use"),
)


def rows(name: str, result: dict[str, Any]) -> Iterable[list[str]]:
  """The rows of one slice: a line for each program, then the step."""
  mesh = result["mesh"]
  where = (
    f"{result['devices']} {result['chip']}, {mesh['fsdp']} x {mesh['tensor']},"
    f" {result['sampler_mesh']['tensor']}"
  )
  for stage in result["stages"].values():
    for label, program in stage["programs"].items():
      yield [name, where, label, *_cells(program)]
      name = where = ""
    step = stage["step"]
    if step:
      seconds = _span(step["estimated_seconds"])
      tokens = step["estimated_tokens_per_second_per_chip"]
      yield [
        *("", "", "step", "", "", "", "", "", "", seconds),
        f"{tokens['least']:.0f} to {tokens['most']:.0f} tokens/s/chip",
      ]


def _span(bounds: dict[str, float]) -> str:
  return f"{bounds['least']:.3g} to {bounds['most']:.3g}"


def _cells(program: dict[str, Any]) -> list[str]:
  if "memory_bytes" not in program:
    return ["does not fit", *[""] * 7]
  sent = sum(x["bytes"] for x in program["collectives"].values())
  beside, use = program["collectives_beside"], program["estimated_utilisation"]
  return [
    f"{program['memory_bytes']['peak'] / 1e9:.2f}"
    + ("" if program["fits"] else " (too much)"),
    f"{program['resident_bytes'] / 1e9:.2f}",
    f"{program['flops'] / 1e12:.2f}",
    f"{program['main'] / 1e9:.1f}",
    f"{sent / 1e9:.2f}",
    "-" if beside is None else f"{beside:.0%}",
    _span(program["estimated_seconds"]),
    _span(use) if use["most"] else "",
  ]


def table(paths: Iterable[pathlib.Path]) -> str:
  """All slices as Markdown."""
  lines = [list(_HEAD), ["---"] * len(_HEAD)]
  for path in paths:
    lines += rows(path.stem, json.loads(path.read_text("utf-8")))
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
  print(table(pathlib.Path(name) for name in sys.argv[1:]))
