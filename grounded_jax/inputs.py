"""All records that an experiment reads, loaded and checked before anything
is allocated."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import AbstractMesh, Mesh

from grounded_jax import (
  config,
  curriculum,
  hosts,
  lessons,
  log,
  mesh,
  pipeline,
  prompts,
  verifiers,
  weights,
  written,
)
from grounded_jax import tokenizer as tokenizer_lib
from grounded_jax.data import demonstrations, dialogues, preferences, sources
from grounded_jax.records import Dialogue, Example, UserError

Fitted = Sequence[tuple[Example, list[int]]]
Data = pipeline.Prompts | written.Written | lessons.Lessons


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """What the stages train on and what is evaluated."""

  stages: tuple[Data, ...]
  evals: dict[str, Fitted]  # by name: examples as shown, and their prompts


def check_rows(devices: Mesh | AbstractMesh, stage: config.Stage) -> None:
  """Raises UserError where a mesh does not divide a stage's prompts."""
  section, drawn = stage.learns, stage.samples
  mesh.check_rows(devices, f"{stage.objective}.prompts", section.prompts)
  if drawn and drawn.sample_chunks > 1:
    size = drawn.prompts // drawn.sample_chunks
    name = f"{stage.objective}.prompts/grpo.sample_chunks"
    mesh.check_rows(devices, name, size)
  if drawn and drawn.slots:
    mesh.check_rows(devices, "grpo.slots", drawn.slots)
  if section.micro:
    mesh.check_rows(devices, f"{stage.objective}.micro", section.micro)


def load(
  experiment: config.Experiment, tokenizer: tokenizer_lib.Tokenizer
) -> Inputs:
  """The prompts of every stage and evaluation.

  Raises:
    UserError: something that the experiment needs is not there, or not so.
  """
  if experiment.model.path:
    weights.read(experiment.model)
  devices = mesh.make(experiment.mesh)
  for stage in experiment.stages:
    check_rows(devices, stage)
  return Inputs(
    stages=tuple(
      training_data(experiment, index, tokenizer)
      for index in range(len(experiment.stages))
    ),
    evals={
      item.name: fitted(experiment.data, item, tokenizer)
      for item in experiment.evals
    },
  )


def training_data(
  experiment: config.Experiment,
  index: int,
  tokenizer: tokenizer_lib.Tokenizer,
) -> Data:
  """The training prompts of a stage, with their completions if written."""
  stage, data = experiment.stages[index], experiment.data
  if _lessons(stage):
    return lessons.Lessons(tokenizer, data, stage.sft, experiment.seed, index)
  order = {"seed": experiment.seed, "stage": index}
  if stage.path:  # rows that name no dataset to mix
    data = dataclasses.replace(data, train=config.Source())
    rows, fits = written.of_dialogues(dialogues_of(stage), tokenizer, data)
  else:
    source = stage_source(experiment, stage)
    examples, _ = records(data, source, stage.rewards.verifier)
    choice = order["answerable"] = source.answerable
    if stage.samples:
      return pipeline.Prompts(
        *(examples, tokenizer, data),
        **order,
        order=curriculum.maker(stage, experiment.seed, index),
      )
    rows, fits = written.of_examples(
      examples, _texts(experiment, stage), tokenizer, data, choice
    )
  return written.Written(
    rows, fits, data, stage.objective, stage.learns, **order
  )


def _lessons(stage: config.Stage) -> bool:
  kinds = lessons.KINDS
  return stage.objective == "sft" and stage.sft.demonstrations in kinds


def reads_records(stage: config.Stage) -> bool:
  """Whether a stage makes its prompts of records."""
  return not (stage.path or _lessons(stage))


def dialogues_of(stage: config.Stage) -> Sequence[Dialogue]:
  """The rows of a stage's own files, the first `limit` of them."""
  read = {"sft": dialogues.demonstrations, "dpo": dialogues.preferences}
  found = read[stage.objective](stage.path)
  return found[: stage.limit or None]


def written_rows(
  experiment: config.Experiment, tokenizer: tokenizer_lib.Tokenizer
) -> dict[str, dict[str, Any]]:
  """What the stages' own files hold, by name, for --mode=data."""
  out = {}
  for index, stage in enumerate(experiment.stages):
    if stage.path:
      found = training_data(experiment, index, tokenizer)
      out[f"stage {stage.name}"] = {
        "path": stage.path,
        "rows": found.fits.prompts,
        "dropped": {"too long": found.too_long},
        "fits": dataclasses.asdict(found.fits),
        "samples": written_samples(experiment, stage, tokenizer, 3),
      }
  return out


def written_samples(
  experiment: config.Experiment,
  stage: config.Stage,
  tokenizer: tokenizer_lib.Tokenizer,
  count: int,
) -> list[dict[str, Any]]:
  """The first rows of a stage's own files, as the model sees them."""
  return [
    written.shown(dialogue, tokenizer, experiment.data)
    for dialogue in dialogues_of(stage)[:count]
  ]


def _texts(
  experiment: config.Experiment, stage: config.Stage
) -> Callable[[Example], Sequence[str]]:
  """What is written for an example: demonstrations, or chosen and rejected."""
  common = {"tags": experiment.data.tags, "refusal": prompts.REFUSAL}
  if stage.objective == "sft":
    return functools.partial(
      demonstrations.make, group=stage.sft.group, **common
    )
  return functools.partial(preferences.make, seed=experiment.seed, **common)


def with_steps(
  experiment: config.Experiment, found: Inputs
) -> config.Experiment:
  """The experiment with `steps` where a stage states `epochs`.

  Raises:
    UserError: the stage's prompts have no end.
  """

  def counted(stage: config.Stage, data: Data) -> config.Stage:
    if not stage.epochs:
      return stage
    if isinstance(data, lessons.Lessons):
      raise UserError(
        f"{stage.name}: lessons have no end: set steps, and epochs=0."
      )
    steps = -(-stage.epochs * len(data) // stage.learns.prompts)
    return dataclasses.replace(stage, steps=steps)

  stages = map(counted, experiment.stages, found.stages)
  return dataclasses.replace(experiment, stages=tuple(stages))


def records(
  data: config.Data, source: config.Source, judge: config.Verifier
) -> tuple[Sequence[Example], sources.Statistics]:
  """The examples of a source; says which had no annotation of their own.

  Where `answers_found` is missing, `judge` decides which passage holds a
  claim; other answers are matched, and confirmed by a judge of entailment,
  which counting words is not.
  """
  examples, counts = sources.load(
    source,
    data.passages,
    verifiers.make(judge),
    confirm=judge.kind != "lexical",
  )
  if counts.computed and hosts.first():
    log.say(
      f"{source.path}: {counts.computed} of {counts.read} records lack"
      " answers_found; it was computed, for claims by the verifier"
      f" {judge.kind}, else by matching the answers."
    )
  return examples, counts


def stage_source(
  experiment: config.Experiment, stage: config.Stage
) -> config.Source:
  """The training source with the stage's own files and choice of records."""
  source = experiment.data.train
  if stage.records:
    source = dataclasses.replace(source, path=stage.records)
  if stage.answerable != "any":
    source = dataclasses.replace(source, answerable=stage.answerable)
  if stage.limit:
    source = dataclasses.replace(source, limit=stage.limit)
  return source


def fitted(
  data: config.Data, item: config.Eval, tokenizer: tokenizer_lib.Tokenizer
) -> Fitted:
  """The examples of an evaluation as shown, each with its prompt."""
  examples, _ = records(data, item.source, item.headline)
  return pipeline.fit_all(examples, tokenizer, data)[0]


def describe(data: Data) -> str:
  """How many prompts there are, and what was left out of them, in words."""
  if isinstance(data, lessons.Lessons):
    return "endless lessons"
  fits = data.fits
  if fits is None:
    return f"{len(data)} prompts, each made when it is taken"
  words = f"{len(data)} prompts, {fits.mean:.0f} tokens, at most {fits.longest}"
  if fits.shortened:
    words += (
      f"; {fits.shortened} lost {fits.passages} passages to"
      f" data.max_prompt_len, which left {fits.flipped} unanswerable"
    )
  if isinstance(data, written.Written):
    words += (
      f"; left out: {data.too_long} that are longer than allowed,"
      f" {data.without} without a completion"
    )
  return words
