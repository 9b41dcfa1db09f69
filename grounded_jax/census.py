"""What the sources of an experiment hold, and how their prompts come out."""

import array
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich.console
import rich.table

from grounded_jax import config, inputs, ondemand, pipeline
from grounded_jax.records import Example
from grounded_jax.tokenizer import Tokenizer

_BATCH = 256  # records made into prompts at once


def sources(
  experiment: config.Experiment,
) -> dict[str, tuple[config.Source, config.Verifier]]:
  """Every source of records that an experiment reads, and its judge."""
  stages = {
    f"stage {stage.name}": (
      inputs.stage_source(experiment, stage),
      stage.rewards.verifier,
    )
    for stage in experiment.stages
    if inputs.reads_records(stage)
  }
  evals = {f"eval {e.name}": (e.source, e.headline) for e in experiment.evals}
  return stages | evals


def count(
  cfg: config.Data,
  source: config.Source,
  judge: config.Verifier,
  tokenizer: Tokenizer,
) -> dict[str, Any]:
  """What a source holds, its prompts' lengths, and some of them as shown.

  Raises:
    UserError: a record is malformed, or a prompt does not fit.
  """
  examples, statistics = inputs.records(cfg, source, judge)
  shown_at = {0, len(examples) // 2, len(examples) - 1}
  # Numbers alone: a million of them fit in memory, a million prompts do not.
  tokens, lost = array.array("I"), array.array("I")
  words, flipped, samples = [0, 0, 0], 0, []
  fit = lambda read: pipeline.fit(read, tokenizer, cfg)
  rows = (
    row
    for start in range(0, len(examples), _BATCH)
    for row in _fitted(examples[start : start + _BATCH], fit, cfg.workers)
  )
  for number, (example, (shown, ids)) in enumerate(rows):
    tokens.append(len(ids))
    lost.append(len(example.docs) - len(shown.docs))
    flipped += example.answerable and not shown.answerable
    counts = [len(doc.text.split()) for doc in example.docs]
    words = [
      words[0] + len(counts),
      words[1] + sum(counts),
      max(words[2], *counts),
    ]
    if number in shown_at:
      samples.append(_sample(cfg, shown, len(ids), tokenizer))
  p50, p95 = np.percentile(tokens, (50, 95)).tolist()
  fits = pipeline.summary(tokens, lost, flipped)
  return dataclasses.asdict(statistics) | {
    "path": source.path,
    "words": {"mean": words[1] / words[0], "most": words[2]},
    "tokens": {"mean": fits.mean, "p50": p50, "p95": p95, "most": fits.longest},
    "fits": dataclasses.asdict(fits),
    "samples": samples,
  }


def _fitted(
  examples: Sequence[Example], fit: ondemand.Fit, workers: int
) -> Iterator[tuple[Example, tuple[Example, list[int]]]]:
  """Each example as it was read, and as it is shown with its prompt."""
  fitted = ondemand.fit_many(examples, fit, workers)
  return zip(examples, fitted, strict=True)


def _sample(
  cfg: config.Data, shown: Example, tokens: int, tokenizer: Tokenizer
) -> dict[str, Any]:
  """A prompt as the model sees it, and what is expected of the answer."""
  return {
    "id": shown.id,
    "dataset": shown.dataset,
    "task": shown.task,
    "tokens": tokens,
    "passages": len(shown.docs),
    "prompt": pipeline.render(shown, tokenizer, cfg),
    "prefill": pipeline.prefill(tokenizer, cfg),
    "answerable": shown.answerable,
    "answers": [
      {"aliases": list(aliases), "in_passages": held}
      for aliases, held in zip(shown.answers, shown.supported, strict=True)
    ],
  }


def show(
  people: rich.console.Console, found: Mapping[str, Mapping[str, Any]]
) -> None:
  """Prints tables of every source, what was left out, and samples."""
  people.print(_records(found))
  people.print(_prompts(found))
  for name, counts in found.items():
    for note in _notes(counts):
      people.print(f"{name}: {note}", soft_wrap=True)
  seen = set()
  for name, counts in found.items():
    for sample in counts["samples"]:
      if sample["prompt"] not in seen:
        seen.add(sample["prompt"])
        people.rule(f"{name}, {sample['id']}: {sample['tokens']} tokens")
        people.print(sample["prompt"] + sample["prefill"], soft_wrap=True)
        people.print(f"=> {_expected(sample)}", soft_wrap=True)


def show_rows(
  people: rich.console.Console, name: str, rows: Sequence[Mapping[str, Any]]
) -> None:
  """Prints rows that are worded already, as `written.shown` has them."""
  for row in rows:
    people.rule(f"{name}, {row['id']}: {row['tokens']} tokens")
    people.print(row["prompt"], soft_wrap=True)
    for completion in row["completions"]:
      people.print(
        f"=> {completion['text']} ({completion['tokens']} tokens)",
        soft_wrap=True,
      )


def _records(found: Mapping[str, Mapping[str, Any]]) -> rich.table.Table:
  columns = ("read", "kept", "answerable", "golds", "max", "passages")
  table = rich.table.Table("records", *columns, "words", "max", box=None)
  for name, counts in found.items():
    table.add_row(
      name,
      str(counts["read"]),
      str(counts["records"]),
      f"{counts['answerable']:.1%}",
      f"{counts['golds']:.2f}",
      str(counts["most_golds"]),
      f"{counts['passages']:.2f}",
      f"{counts['words']['mean']:.1f}",
      str(counts["words"]["most"]),
    )
  return table


def _prompts(found: Mapping[str, Mapping[str, Any]]) -> rich.table.Table:
  columns = (
    "tokens",
    "median",
    "95%",
    "most",
    "shortened",
    "unanswerable by it",
  )
  table = rich.table.Table("prompts", *columns, box=None)
  for name, counts in found.items():
    tokens, fits = counts["tokens"], counts["fits"]
    table.add_row(
      name,
      *(f"{tokens[key]:.0f}" for key in ("mean", "p50", "p95", "most")),
      str(fits["shortened"]),
      str(fits["flipped"]),
    )
  return table


def _notes(counts: Mapping[str, Any]) -> Iterator[str]:
  """What was left out of a source or added to it, in sentences."""
  for why, n in counts["dropped"].items():
    yield f"{n} records dropped: {why}."
  if counts["fits"]["passages"]:
    yield (
      f"{counts['fits']['passages']} passages of {counts['fits']['shortened']}"
      " prompts left out to fit data.max_prompt_len."
    )
  if counts["computed"]:
    yield f"answers_found computed for {counts['computed']} records."


def _expected(sample: Mapping[str, Any]) -> str:
  if not sample["answerable"]:
    return "a refusal: no passage holds an answer"
  held = [a["aliases"] for a in sample["answers"] if a["in_passages"]]
  return "; ".join(" or ".join(aliases) for aliases in held)
