"""What each --mode does; a result is JSON on stdout, its table on stderr.

jax is imported only by the modes that compute with it.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
import rich.table

from grounded_jax import (
  config,
  files,
  log,
  scoring,
  text,
  verifiers,
)
from grounded_jax import outputs as outputs_lib
from grounded_jax import tokenizer as tokenizer_lib
from grounded_jax.data import parsing, sources
from grounded_jax.records import Doc, Example, UserError, absence

# Columns by their headers, short enough for 80 characters.
_SHOWN = {
  "TRUST": "trust",
  "F1_AC": "f1_ac",
  "F1_GR": "f1_gr",
  "F1_GC": "f1_gc",
  "cite P": "citation_precision",
  "cite R": "citation_recall",
  "answered": "answered_ratio",
}


def _people() -> rich.console.Console:
  """What people read; names and texts are shown as they are written."""
  return rich.console.Console(
    stderr=True, highlight=False, markup=False, emoji=False
  )


def _result(value: Any) -> None:
  print(log.dumps(value, indent=2))


def train(
  experiment: config.Experiment, workdir: pathlib.Path, profile: int
) -> None:
  """Runs the experiment in `workdir`, or what is left of it."""
  from grounded_jax import train as train_lib

  if not experiment.stages:
    raise UserError(f"The experiment {experiment.name} has no stages to train.")
  train_lib.run(experiment, workdir, profile=profile)


def evaluate(
  experiment: config.Experiment,
  workdir: pathlib.Path,
  checkpoint: str,
  shuffle_passages: bool,
  passage_count: str,
  counterfactual: bool,
  remove_evidence: bool,
) -> None:
  """TRUST-SCORE of a checkpoint on every set; also in workdir/eval.

  Beside each set come those with the passages changed as the flags say.
  """
  from grounded_jax import checkpoint as checkpoint_lib
  from grounded_jax import evaluate as evaluate_lib
  from grounded_jax import hosts, inputs, variants
  from grounded_jax import policy as policy_lib

  if not experiment.evals:
    raise UserError(f"The experiment {experiment.name} has no evals.")
  wanted = variants.Wanted(
    shuffle=shuffle_passages,
    counts=variants.parse_counts(passage_count),
    counterfactual=counterfactual,
    remove_evidence=remove_evidence,
  )
  hosts.once(lambda: checkpoint_lib.check_workdir(workdir))
  stages = experiment.stages
  rewards = stages[-1].rewards if stages else config.Rewards()
  origin = _origin(workdir, checkpoint)
  tokenizer = tokenizer_lib.load(experiment.model)
  found = inputs.load(dataclasses.replace(experiment, stages=()), tokenizer)
  changed = variants.prepare(wanted, experiment, tokenizer, found.evals)
  policy, params = policy_lib.load(experiment, tokenizer, origin)
  common = {
    "data": experiment.data,
    "rewards": rewards,
    "seed": experiment.seed,
  }
  results = {}

  def keep(name: str, result: evaluate_lib.Result) -> None:
    results[name] = result.metrics
    if hosts.first():
      path = workdir / "eval" / f"{name}.json"
      log.write_jsonl(path.with_suffix(".jsonl"), result.records)
      log.write_json(path, result.metrics)

  for item in experiment.evals:
    fitted = found.evals[item.name]
    base = evaluate_lib.run(policy, params, fitted, item, **common)
    keep(item.name, base)
    for made in changed[item.name]:
      result = variants.run(policy, params, made, base, item, **common)
      keep(made.name, result)
    if hosts.first():
      _table(item.name, base.metrics)
      _people().print(_beside(base.metrics["extras"]))
      _changes(item.name, [results[made.name] for made in changed[item.name]])
  if hosts.first():
    _result(results)


def _origin(workdir: pathlib.Path, checkpoint: str) -> pathlib.Path | None:
  """The checkpoint that the flag names; None = the experiment's own weights."""
  from grounded_jax import checkpoint as checkpoint_lib

  if checkpoint == "start":
    return None
  if checkpoint in ("latest", "best"):
    return checkpoint_lib.find(str(workdir), best=checkpoint == "best")
  return checkpoint_lib.find(checkpoint)


def _table(title: str, metrics: Mapping[str, Any]) -> None:
  title = f"{title} by {metrics['meta']['verifier']}"
  table = rich.table.Table("", *_SHOWN, title=title, box=None)
  rows = [("", metrics)]
  if "intervals" in metrics:
    rows += _spans(("95% low", "95% high"), metrics["intervals"])
  rows += metrics.get("tasks", {}).items()
  if "reward_verifier" in metrics:
    judged = metrics["reward_verifier"]
    gap = {key: judged[key] - metrics[key] for key in _SHOWN.values()}
    rows += [(f"by {judged['verifier']}", judged), ("gap", gap)]
  if "concise" in metrics:
    rows.append(("concise", metrics["concise"]))
  for name, scores in rows:
    shown = (scores.get(key, math.nan) for key in _SHOWN.values())
    table.add_row(name, *map(_number, shown))
  _people().print(table)


def _spans(
  names: Sequence[str], values: Mapping[str, Sequence[float]]
) -> list[tuple[str, dict[str, float]]]:
  """A row for each place in the values of each metric."""
  return [
    (name, {metric: x[place] for metric, x in values.items()})
    for place, name in enumerate(names)
  ]


def _changes(name: str, results: Sequence[Mapping[str, Any]]) -> None:
  """Shows an evaluation under changed passages, and the differences."""
  results = [metrics for metrics in results if "difference" in metrics]
  if not results:
    return
  title = f"{name}, passages changed, and the difference"
  table = rich.table.Table("", *_SHOWN, title=title, box=None)
  ends = ("  difference", "  95% low", "  95% high")
  for metrics in results:
    change = metrics["change"]
    rows = [(f"{change['change']} ({change['records']})", metrics)]
    for label, scores in rows + _spans(ends, metrics["difference"]):
      table.add_row(label, *(_number(scores[key]) for key in _SHOWN.values()))
  people = _people()
  people.print(table)
  for metrics in results:
    if "follows_passage" in metrics["change"]:
      people.print(_follows(metrics["change"]))


def _follows(change: Mapping[str, Any]) -> str:
  """What counterfactual passages show, for people."""
  passage, memory = (
    "{:.1f}% [{:.1f}, {:.1f}]".format(change[key], *change["intervals"][key])
    for key in ("follows_passage", "follows_memory")
  )
  return (
    f" counterfactual: {passage} give the passage's answer,\n"
    f" {memory} the one that stood there before."
  )


def _beside(extras: Mapping[str, Any]) -> str:
  """What an evaluation says beside TRUST, in two lines."""
  risk = extras["risk_coverage"]
  return (
    f" risk over coverage: {risk['aurc']:.1f} ({risk['aurc_best']:.1f} in the"
    f" best order, {risk['aurc_chance']:.1f} by chance)\n thought:"
    f" {_number(extras['think_entails_answer'])}% entail their answer,"
    f" {_number(extras['decision_consistency'])}% agree with it on refusing"
  )


def _number(value: float | None) -> str:
  return "-" if value is None or math.isnan(value) else f"{value:.1f}"


def score(
  outputs: str,
  task: str,
  docs: int,
  bootstrap: int,
  against: str,
  splitter: str,
  verifier: str,
  verifier_path: str,
  threshold: float,
  refusal_flag: str,
  refusal_threshold: int,
  at_most_citations: int,
  rouge: bool,
) -> None:
  """TRUST-SCORE of any system's outputs, or of two and their difference."""
  if not outputs:
    raise UserError("--mode=score needs --outputs=FILE of records with output.")
  judge = config.Verifier(
    kind=verifier, threshold=threshold, path=verifier_path
  )
  options = scoring.Options(
    splitter=splitter,
    refusal_flag=refusal_flag,
    refusal_threshold=refusal_threshold,
    at_most_citations=at_most_citations,
    rouge=rouge,
  )
  read = lambda path: scoring.read(
    outputs_lib.read(path, task=task, docs=docs), judge, options
  )
  if against:  # a mistake shows before the first file is scored
    outputs_lib.peek(against, task=task)
  ours, theirs = read(outputs), read(against) if against else None
  result = scoring.report(ours, bootstrap=bootstrap)
  difference = (
    scoring.compare(ours, theirs, bootstrap=bootstrap) if theirs else {}
  )
  _table(outputs, result)
  if theirs:
    other = scoring.report(theirs, bootstrap=bootstrap)
    _table(against, other)
    result |= {"against": other, "difference": difference}
    table = rich.table.Table("", *_SHOWN, title="difference", box=None)
    for index, name in enumerate(("mean", "95% low", "95% high")):
      spans = (difference[key][index] for key in _SHOWN.values())
      table.add_row(name, *map(_number, spans))
    _people().print(table)
  _result(result)


def answer(
  experiment: config.Experiment,
  workdir: pathlib.Path,
  checkpoint: str,
  question: str,
  passages: str,
) -> None:
  """Answers one question from passages, with the passages that it cites."""
  if not question.strip() or not passages:
    raise UserError("--mode=answer needs --question=TEXT and --passages=FILE.")
  given = read_passages(pathlib.Path(passages))
  example = Example(
    id="question",
    task=experiment.data.train.task or "short",
    question=question.strip(),
    docs=given[: experiment.data.passages],
    answers=(),
    answerable=False,  # not known, and not read
  )
  from grounded_jax import evaluate as evaluate_lib
  from grounded_jax import pipeline
  from grounded_jax import policy as policy_lib

  origin = _origin(workdir, checkpoint)
  tokenizer = tokenizer_lib.load(experiment.model)
  fitted = [pipeline.fit(example, tokenizer, experiment.data)]
  policy, params = policy_lib.load(experiment, tokenizer, origin)
  decoding = config.Eval(name="answer", source=config.Source())
  if experiment.evals:
    decoding = experiment.evals[0]
  got = evaluate_lib.answers(
    policy,
    params,
    fitted,
    decoding,
    data=experiment.data,
    seed=experiment.seed,
  )[0]
  docs, said = got.example.docs, got.completion
  people = _people()
  if len(docs) < len(given):
    people.print(
      f"Only the first {len(docs)} of {len(given)} passages were read:"
      " data.passages and data.max_prompt_len allow no more."
    )
  cited = dict.fromkeys(text.citations(said.answer))
  cited = [i for i in cited if 0 <= i < len(docs)]
  people.print(said.answer)
  for i in cited:
    line = f"\n[{i + 1}] {docs[i].title}\n{docs[i].text}"
    people.print(line, style="dim")
  flag = config.Rewards().refusal_flag
  _result(
    {
      "question": example.question,
      "answer": said.answer,
      "think": said.think,
      "refused": text.is_refusal(flag, said.answer),
      "citations": [i + 1 for i in cited],
      "finished": said.finished,
      "passages": [{"title": d.title, "text": d.text} for d in docs],
    }
  )


def read_passages(path: pathlib.Path) -> tuple[Doc, ...]:
  """The passages of a file: title and text each, or one record's docs."""
  if not path.is_file():
    raise UserError(
      f"--passages={path} {absence(path)}: give JSON lines with title and text."
    )
  found = [(where, row) for where, row in parsing.rows(path)]
  if len(found) == 1 and "docs" in found[0][1]:
    where, row = found[0]
    if not isinstance(row["docs"], list):
      raise UserError(f"{where}: 'docs' must be a list of passages.")
    found = [(f"{where}, doc {i}", d) for i, d in enumerate(row["docs"], 1)]
  if not found:
    raise UserError(f"{path} holds no passages.")
  for where, row in found:
    if not isinstance(row, dict) or not all(
      isinstance(row.get(name), str) for name in ("title", "text")
    ):
      raise UserError(
        f"{where}: a passage needs 'title' and 'text', both text."
      )
  return tuple(Doc(title=row["title"], text=row["text"]) for _, row in found)


def data(experiment: config.Experiment, workdir: pathlib.Path) -> None:
  """Loads, validates and counts every record that the experiment reads."""
  del workdir
  from grounded_jax import census, inputs

  tokenizer = tokenizer_lib.load(experiment.model)
  found = {
    name: census.count(experiment.data, source, judge, tokenizer)
    for name, (source, judge) in census.sources(experiment).items()
  }
  rows = inputs.written_rows(experiment, tokenizer)
  census.show(_people(), found)
  for name, counts in rows.items():
    said = {key: value for key, value in counts.items() if key != "samples"}
    _people().print(f"{name}: {said}", soft_wrap=True)
    census.show_rows(_people(), name, counts["samples"])
  _result(rows | found)


def prompt(
  experiment: config.Experiment, workdir: pathlib.Path, count: int
) -> None:
  """Prints the first training prompts, exactly, with their token counts."""
  del workdir
  from grounded_jax import census, inputs, pipeline

  tokenizer = tokenizer_lib.load(experiment.model)
  if experiment.stages:
    stage = experiment.stages[0]
    if stage.path:
      rows = inputs.written_samples(experiment, stage, tokenizer, count)
      census.show_rows(_people(), f"stage {stage.name}", rows)
      _result(rows)
      return
    source = inputs.stage_source(experiment, stage)
  else:
    source = experiment.data.train
  examples, _ = sources.load(source, experiment.data.passages)
  prefill = pipeline.prefill(tokenizer, experiment.data)
  result = []
  people = _people()
  for example in examples[:count]:
    shown, ids = pipeline.fit(example, tokenizer, experiment.data)
    written = pipeline.render(shown, tokenizer, experiment.data)
    people.rule(f"{example.id}: {len(ids)} tokens")
    people.print(written, soft_wrap=True)
    result.append(
      {
        "id": example.id,
        "tokens": len(ids),
        "passages": len(shown.docs),
        "prompt": written,
        "prefill": prefill,
      }
    )
  _result(result)


def export(
  experiment: config.Experiment,
  workdir: pathlib.Path,
  checkpoint: str,
  output: str,
  dtype: str,
  adapter: bool,
) -> None:
  """Writes a checkpoint as a directory of Hugging Face's, or of PEFT's."""
  from grounded_jax import policy as policy_lib
  from grounded_jax import weights

  origin = _origin(workdir, checkpoint)
  tokenizer = tokenizer_lib.load(experiment.model)
  lengths = [stage.grpo.max_new_tokens for stage in experiment.stages]
  job = weights.export.Job(
    model=experiment.model,
    decoder=weights.decoder(experiment.model),
    tokenizer=tokenizer,
    path=pathlib.Path(output) if output else workdir / "export",
    adapter=adapter,
    dtype=dtype,
    positions=experiment.data.max_prompt_len + max(lengths, default=2048),
    origin={"experiment": experiment.name, "checkpoint": str(origin or "")},
  )
  weights.export.check(job)
  policy, params = policy_lib.load(experiment, tokenizer, origin)
  weights.export.write(job, params if adapter else policy.whole(params))
  sizes = {p.name: p.stat().st_size for p in sorted(job.path.iterdir())}
  table = rich.table.Table("", "bytes", title=str(job.path), box=None)
  for name, size in sizes.items():
    table.add_row(name, f"{size:,}")
  _people().print(table)
  path = experiment.model.path
  if adapter and not (path and files.find(path).kind == "hf"):
    _people().print(
      "PEFT cannot load the weights that this adapter is for by their name"
      f" {path!r}: write them with --checkpoint=start, and"
      " without --adapter, to another --output."
    )
  _result({"path": str(job.path), **job.origin, "files": sizes})


def plan(
  experiment: config.Experiment,
  workdir: pathlib.Path,
  devices: int,
  hbm_gb: float,
) -> int:
  """Shows the memory of a device in every program; nothing is allocated.

  Returns 1 if it does not fit, else 0.

  Without a number of devices or their memory it is that of this machine's
  CPU, where bfloat16 takes 4 bytes; with either, that of an accelerator.
  """
  del workdir
  from grounded_jax import plan as plan_lib

  if not experiment.stages:
    raise UserError(f"The experiment {experiment.name} has no stages to plan.")
  cpu = not devices and not hbm_gb and plan_lib.on_cpu()
  sizes = (experiment.mesh.data, experiment.mesh.fsdp, experiment.mesh.tensor)
  devices = devices or math.prod(size for size in sizes if size != -1)
  stages = plan_lib.run(experiment, devices, cpu, round(hbm_gb * 1e9) or None)
  people = _people()
  for name, programs in stages.items():
    title = f"{name}: GB of each of {devices} devices"
    table = rich.table.Table("", *programs, title=title, box=None)
    for label, *values in plan_lib.rows(programs):
      shown = ("-" if x is None else f"{x / 1e9:.3f}" for x in values)
      table.add_row(label, *shown)
    people.print(table)
  peak = max(p.peak for stage in stages.values() for p in stage.values())
  result = {
    "devices": devices,
    "mesh": dataclasses.asdict(experiment.mesh),
    "bfloat16_bytes": 4 if cpu else 2,
    "stages": {
      name: {key: plan_lib.to_dict(p) for key, p in programs.items()}
      for name, programs in stages.items()
    },
    "peak_bytes": peak,
  }
  verdict = f"At most {peak / 1e9:.3f} GB a device"
  if hbm_gb:
    result |= {"hbm_bytes": round(hbm_gb * 1e9), "fits": peak <= hbm_gb * 1e9}
    fits = "fits" if result["fits"] else "does not fit"
    verdict += f": it {fits} into {hbm_gb:g} GB"
  people.print(verdict + ".")
  _result(result)
  return 0 if result.get("fits", True) else 1


def compile_for(
  experiment: config.Experiment, workdir: pathlib.Path, topology: str
) -> int:
  """Compiles every program of a step for TPUs that are not here.

  Returns 1 if one does not fit, else 0.
  """
  del workdir
  if not topology:
    raise UserError(
      "--mode=compile needs --topology, for example --topology=v5e:4x4."
    )
  if not experiment.stages:
    raise UserError(f"The experiment {experiment.name} has no stages.")
  # Else jax looks for TPUs that the compiler's library could drive.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from grounded_jax import topology as topology_lib

  people = _people()
  result = topology_lib.run(experiment, topology, people.print)
  for name, stage in result["stages"].items():
    people.print(topology_lib.table(name, result, stage))
  fits = "fits" if result["fits"] else "does not fit"
  people.print(
    f"It {fits} into {result['hbm_bytes'] / 1e9:.1f} GB of each"
    f" {result['chip']}. Seconds are the compiler's estimate, not measured."
  )
  _result(result)
  return 0 if result["fits"] else 1


def prepare(output: str, splits: str, **options: Any) -> None:
  """Makes training records from passages and questions, without a config.

  Args:
    output: a new directory, or one of an earlier preparation.
    splits: three shares, by commas.
    **options: the other flags of the mode, as `data.prepare.Options` has them.
  """
  from grounded_jax.data import prepare as prepare_lib
  from grounded_jax.data import prepared

  if not output:
    raise UserError("--mode=prepare needs --output=DIR.")
  judge = config.Verifier(
    kind=options.pop("verifier"),
    threshold=options.pop("threshold"),
    path=options.pop("verifier_path"),
  )
  if judge.kind == "oracle":
    raise UserError(
      "--verifier=oracle knows the embedded world alone: use lexical, t5 or"
      " classifier."
    )
  for name in ("corpus", "questions", "held_out"):
    options[name] = tuple(filter(None, options[name].split(",")))
  found = prepare_lib.Options(splits=prepare_lib.shares(splits), **options)
  result = prepared.run(found, pathlib.Path(output), verifiers.make(judge))
  _prepared(result)
  _result(result)


def _prepared(result: Mapping[str, Any]) -> None:
  """Shows people what was prepared, and what is wrong with it."""
  people = _people()
  columns = ("records", "questions", "answerable", "golds", "words")
  table = rich.table.Table("", *columns, "gold places", box=None)
  for name, counts in result["files"].items():
    table.add_row(
      name,
      str(counts["records"]),
      str(counts["questions"]),
      f"{counts['answerable']:.1%}",
      f"{counts['gold passages']:.2f}",
      f"{counts['words per passage']:.0f}",
      " ".join(map(str, counts["gold places"])),
    )
  people.print(table)
  plain, even = result["auc"]["plain recombination"], result["auc"]
  table = rich.table.Table("AUC of", "plain", "even records", box=None)
  for cue, value in even["even records"].items():
    before = f"{plain[cue]:.3f}" if cue in plain else "-"
    table.add_row(cue, before, f"{value:.3f}")
  people.print(table)
  kinds = list(next(iter(result["shared"].values())))
  table = rich.table.Table("shared by", *kinds, box=None)
  for name, counts in result["shared"].items():
    table.add_row(name, *(str(counts[kind]) for kind in kinds))
  people.print(table)
  dropped = result["questions"]["dropped"] or {"-": 0}
  for why, number in dropped.items():
    people.print(f"dropped: {number} {why}")
  for warning in result["warnings"]:
    people.print(f"warning: {warning}")
