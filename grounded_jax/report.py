"""report.html: one file that shows a run, with nothing to fetch.

Reward curves, the TRUST table with intervals, completions with their passages,
the command and the config.
"""

import io
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe

from grounded_jax import log

# (metric, heading) of the table's columns, after the intervals of the first.
COLUMNS = (
  ("trust", "TRUST"),
  ("f1_ac", "F1_AC"),
  ("f1_gr", "F1_GR"),
  ("f1_gc", "F1_GC"),
  ("citation_precision", "cit. prec."),
  ("citation_recall", "cit. rec."),
  ("answered_ratio", "answered"),
)
COMPLETIONS = 20
_SMOOTH = 0.8  # of the curves' running mean


def write(workdir: pathlib.Path) -> pathlib.Path:
  """Writes report.html from what the run has left in its workdir."""
  rows = log.read_metrics(workdir)
  summary = log.read_json(workdir / "summary.json")
  page = (
    _environment()
    .get_template("report.html.j2")
    .render(
      summary=summary,
      duration=log.duration,
      columns=COLUMNS,
      table=table(summary),
      robustness=robustness(workdir),
      curves=[markupsafe.Markup(svg) for svg in curves(rows)],
      completions=completions(workdir, summary),
      config=log.dumps(log.read_json(workdir / "config.json"), indent=2),
      command=shlex.join(["python", *sys.orig_argv[1:]]),
    )
  )
  path = workdir / "report.html"
  path.write_text(page, encoding="utf-8")
  return path


def _environment() -> jinja2.Environment:
  return jinja2.Environment(
    loader=jinja2.PackageLoader("grounded_jax"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )


def table(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The rows of the TRUST table: every set, before and after each stage.

  The evaluation before a stage is left out where it is the one after the
  stage before it.
  """
  out, last = [], {}
  for stage in summary["stages"]:
    for when, results in (
      (f"before {stage['name']}", stage["eval_before"]),
      (f"after {stage['name']}", stage["eval_after"]),
    ):
      if results == last:
        continue
      last = results
      for name, result in results.items():
        out += _rows(when, name, result)
  return out


def _rows(when: str, name: str, result: Mapping[str, Any]) -> list[dict]:
  rows = [("", result)]
  rows += list(result.get("tasks", {}).items())
  if "reward_verifier" in result:
    judge = result["reward_verifier"]
    rows.append((f"judged by {judge['verifier']}", judge))
    rows.append(("gap of the two", _gap(judge, result)))
  return [
    {
      "when": when if not task else "",
      "set": name if not task else "",
      "task": task,
      "values": [cell(scores, metric) for metric, _ in COLUMNS],
    }
    for task, scores in rows
  ]


def _gap(judge: Mapping[str, Any], result: Mapping[str, Any]) -> dict:
  """The reward verifier's numbers minus the headline's."""
  names = [metric for metric, _ in COLUMNS]
  known = lambda name: None not in (judge[name], result[name])
  return {n: judge[n] - result[n] if known(n) else None for n in names}


def robustness(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of what --mode=eval has found under changed passages."""
  rows = []
  for path in sorted((workdir / "eval").glob("*.json")):
    result = log.read_json(path)
    if "difference" not in result:
      continue
    change, spans = result["change"], result["difference"]
    paired = {name: span[0] for name, span in spans.items()}
    paired["intervals"] = {name: span[1:] for name, span in spans.items()}
    rows.append(
      {
        "set": path.stem,
        "records": change["records"],
        "values": [cell(paired, metric) for metric, _ in COLUMNS],
        "follows": [
          cell(change, name)
          for name in ("follows_passage", "follows_memory")
          if name in change
        ],
      }
    )
  return rows


def cell(scores: Mapping[str, Any], metric: str) -> str:
  """A metric with its interval, if it has one."""
  value = scores[metric]
  if value is None:
    return "–"
  if metric in scores.get("intervals", {}):
    low, high = scores["intervals"][metric]
    if low is not None and high is not None:
      return f"{value:.1f} [{low:.1f}, {high:.1f}]"
  return f"{value:.1f}"


def curves(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """SVG figures of the metrics over the steps, stages one after another."""
  if not rows:
    return []
  # Parts that the reward does not use stay 0 and would only fill the legend.
  parts = dict.fromkeys(
    name
    for row in rows
    for name, value in row.items()
    if name.startswith("reward/") and value
  )
  figures = [
    ("Reward", ["reward", *parts]),
    (
      "Answered",
      ["answered_ratio", "answered_of_answerable", "answered_of_unanswerable"],
    ),
    ("Tokens per completion", ["completion_length"]),
    ("Entropy", ["entropy"]),
    ("Loss", ["loss"]),
    ("Seconds per step", ["seconds"]),
  ]
  present = lambda names: [
    name for name in names if any(row.get(name) is not None for row in rows)
  ]
  return [
    _figure(title, present(names), rows)
    for title, names in figures
    if present(names)
  ]


def _figure(
  title: str, names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> str:
  """One SVG: the running mean of each metric over its pale raw values."""
  # matplotlib takes most of a second to import.
  from matplotlib.backends import backend_svg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(6.4, 3.2), layout="constrained")
  axes = figure.subplots()
  colors = [f"C{i % 10}" for i in range(len(names))]
  for name, color in zip(names, colors, strict=True):
    points = [
      (i, r[name]) for i, r in enumerate(rows, 1) if r.get(name) is not None
    ]
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
    axes.plot(x, _running(y), color=color, label=name.removeprefix("reward/"))
  for i in range(1, len(rows)):
    if rows[i]["stage"] != rows[i - 1]["stage"]:
      axes.axvline(i + 0.5, color="0.5", linewidth=0.8, linestyle="--")
  axes.set_title(title, loc="left")
  axes.set_xlabel("step")
  axes.spines[["top", "right"]].set_visible(False)
  if len(names) > 1:
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
  out = io.StringIO()
  backend_svg.FigureCanvasSVG(figure).print_svg(out)
  svg = out.getvalue()
  return svg[svg.index("<svg") :]


def _running(values: Sequence[float]) -> list[float]:
  """The exponential running mean, without bias towards its start."""
  out, total, weight = [], 0.0, 0.0
  for value in values:
    total = _SMOOTH * total + value
    weight = _SMOOTH * weight + 1
    out.append(total / weight)
  return out


def completions(
  workdir: pathlib.Path, summary: Mapping[str, Any]
) -> list[dict[str, Any]]:
  """Some outputs of the last evaluation with their passages."""
  for stage in reversed(summary["stages"]):
    for name in stage["eval_after"]:
      path = workdir / "eval" / f"{name}-{stage['name']}-{stage['steps']}.jsonl"
      if path.exists():
        records = log.read_jsonl(path)
        # Evenly over the set, so that every task and kind is seen.
        count = min(COMPLETIONS, len(records))
        return [records[i * len(records) // count] for i in range(count)]
  return []
