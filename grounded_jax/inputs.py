"""All records that an experiment reads, loaded and checked before anything
is allocated."""

import dataclasses

from grounded_jax import checkpoint, config, files, mesh, pipeline
from grounded_jax.data import sources
from grounded_jax.records import Example, UserError
from grounded_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """What the stages train on and what is evaluated."""

  stages: tuple[tuple[Example, ...], ...]  # of each stage
  evals: dict[str, tuple[Example, ...]]  # of each evaluation, by its name


def load(experiment: config.Experiment) -> Inputs:
  """The examples of every stage and evaluation.

  Raises:
    UserError: something that the experiment needs is not there, or not so.
  """
  if not experiment.stages and not experiment.evals:
    raise UserError(
      f"The experiment {experiment.name} has neither stages nor evals."
    )
  if experiment.model.path:
    files.find(experiment.model.path)
  devices = mesh.make(experiment.mesh)
  for stage in experiment.stages:
    section = stage.grpo if stage.objective == "grpo" else stage.sft
    mesh.check_rows(devices, f"{stage.objective}.prompts", section.prompts)
    if section.micro:
      mesh.check_rows(devices, f"{stage.objective}.micro", section.micro)
    if stage.init_from:
      checkpoint.find(stage.init_from)
  return Inputs(
    stages=tuple(
      examples(experiment, stage_source(experiment, stage))
      for stage in experiment.stages
    ),
    evals={
      item.name: examples(experiment, item.source) for item in experiment.evals
    },
  )


def stage_source(
  experiment: config.Experiment, stage: config.Stage
) -> config.Source:
  """The training source with the stage's own choice of records."""
  source = experiment.data.train
  if stage.answerable != "any":
    source = dataclasses.replace(source, answerable=stage.answerable)
  if stage.limit:
    source = dataclasses.replace(source, limit=stage.limit)
  return source


def examples(
  experiment: config.Experiment, source: config.Source
) -> tuple[Example, ...]:
  """The examples of a source, with as many passages as prompts show."""
  found, _ = sources.load(source, experiment.data.passages)
  return found


def prompts(
  experiment: config.Experiment,
  index: int,
  found: Inputs,
  tokenizer: Tokenizer,
) -> pipeline.Prompts:
  """The training prompts of a GRPO stage."""
  source = stage_source(experiment, experiment.stages[index])
  return pipeline.Prompts(
    found.stages[index],
    tokenizer,
    experiment.data,
    experiment.seed,
    index,
    source.answerable,
  )


def demonstrations(
  experiment: config.Experiment,
  index: int,
  found: Inputs,
  tokenizer: Tokenizer,
) -> pipeline.Demonstrations:
  """The training prompts of a supervised stage with their completions."""
  return pipeline.Demonstrations(
    found.stages[index],
    tokenizer,
    experiment.data,
    experiment.stages[index].sft,
    experiment.seed,
    index,
  )


def describe(data: pipeline.Prompts | pipeline.Demonstrations) -> str:
  """How many prompts there are, and what fitting them has cost, in words."""
  fits = data.fits
  words = f"{len(data)} prompts, {fits.mean:.0f} tokens, at most {fits.longest}"
  if fits.shortened:
    words += (
      f"; {fits.shortened} lost {fits.passages} passages to"
      f" data.max_prompt_len, which left {fits.flipped} unanswerable"
    )
  return words
