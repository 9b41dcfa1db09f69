"""Train and evaluate LLMs that answer from retrieved passages only.

  python -m grounded_jax.main --config=experiments/quickstart.py

  --config=FILE.py[:arg]  the experiment; any field as --config.a.b=value
  --mode=train   run the experiment's stages, or resume them (the default)
  --mode=eval    TRUST-SCORE of a checkpoint on the experiment's sets, and on
                 them with changed passages
  --mode=score   TRUST-SCORE of any system's outputs (needs no --config)
  --mode=answer  answer one question from passages
  --mode=data    load, validate and count the experiment's records; samples
  --mode=prompt  print exact prompts with their token counts
  --mode=prepare training records from passages and questions (no --config)
  --mode=export  write a checkpoint for transformers, vLLM or PEFT
  --mode=compile every program of a step, compiled for TPUs that are not here
  --mode=plan    memory of each device, for a config and a mesh of any size

A result is JSON on stdout, and a table on stderr.  A mistake in the command
ends with exit code 2 and one sentence; a run that was told to end (SIGTERM) has
saved and ends with 75: the same command goes on.

Of a run on several hosts each starts the same command.  On a TPU pod, under
Slurm and under Open MPI they find each other; elsewhere each is told
  --coordinator=HOST:PORT --processes=N --process_id=I
"""

import importlib.util
import io
import os
import pathlib
import re
import sys
from collections.abc import Sequence

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_dict, config_flags

from grounded_jax import config, files
from grounded_jax.records import TASKS, Preempted, UserError, absence

# Each mode with the flags that it reads besides --config and --workdir.
MODES = {
  "train": ("profile",),
  "eval": (
    "checkpoint",
    "shuffle_passages",
    "passage_count",
    "counterfactual",
    "remove_evidence",
  ),
  "score": (
    "outputs",
    "task",
    "docs",
    "bootstrap",
    "against",
    "splitter",
    "verifier",
    "verifier_path",
    "threshold",
    "refusal_flag",
    "refusal_threshold",
    "at_most_citations",
    "rouge",
  ),
  "answer": ("checkpoint", "question", "passages"),
  "data": (),
  "prompt": ("count",),
  "export": ("checkpoint", "output", "dtype", "adapter"),
  "plan": ("devices", "hbm_gb"),
  "compile": ("topology",),
  "prepare": (
    "corpus",
    "questions",
    "held_out",
    "output",
    "task",
    "verifier",
    "verifier_path",
    "threshold",
    "record_passages",
    "passage_words",
    "retriever",
    "dense_model",
    "retrieved",
    "confusable",
    "recombinations",
    "splits",
    "plain",
    "seed",
  ),
}
# Modes that may run on several hosts, with the flags that say which they are.
TOGETHER = ("train", "eval")
HOSTS = ("coordinator", "processes", "process_id")
LATER = ("report",)
WITHOUT_CONFIG = ("score", "prepare")
RESTART = 75  # exit code (EX_TEMPFAIL) of a run to be started again
EXPORT_DTYPES = ("float32", "bfloat16", "float16")


def define_flags(values: flags.FlagValues) -> None:
  """Declares every flag but --config on `values`."""
  switch = lambda name, doc, short=None: flags.DEFINE_bool(
    name, False, doc, short_name=short, flag_values=values
  )
  text = lambda name, default, doc: flags.DEFINE_string(
    name, default, doc, flag_values=values
  )
  number = lambda name, default, doc: flags.DEFINE_integer(
    name, default, doc, flag_values=values, lower_bound=0
  )
  choice = lambda name, default, allowed, doc: flags.DEFINE_enum(
    name, default, allowed, doc, flag_values=values
  )
  text("mode", "train", f"What to do: {', '.join(MODES)}.")
  text("workdir", "", "Where the run lives. Default: runs/<name>.")
  text(
    "checkpoint",
    "latest",
    "eval, answer, export: a workdir or checkpoint directory; latest or best of"
    " --workdir; or start, the weights that the experiment starts from.",
  )
  switch("shuffle_passages", "eval: also with the passages in another order.")
  text(
    "passage_count",
    "",
    "eval: also with so many passages, 1 to 10; several by commas.",
  )
  switch("counterfactual", "eval: also with another answer in the passages.")
  switch("remove_evidence", "eval: also without the passages that answer.")
  number("profile", 0, "train: trace so many steps, for xprof.")
  text("outputs", "", "score: records with outputs (JSON lines or JSON).")
  choice(
    "task",
    "",
    ("", *TASKS),
    "score, prepare: of all the records. Default: their own.",
  )
  number("bootstrap", 1000, "score: resamples of the 95% intervals.")
  text("against", "", "score: a second file, for paired differences.")
  choice("splitter", "punkt", config.SPLITTERS, "score: splits sentences.")
  choice(
    "verifier", "lexical", config.VERIFIERS, "score, prepare: judges support."
  )
  text(
    "verifier_path",
    "",
    "score, prepare: the model of --verifier=t5 or classifier: a directory, or"
    " a name of the Hugging Face hub.",
  )
  flags.DEFINE_float(
    "threshold",
    config.Verifier().threshold,
    "score, prepare: of the lexical verifier, the share of words to be found.",
    flag_values=values,
  )
  _define_reading(values)
  text("question", "", "answer: the question.")
  text("passages", "", "answer: a file of passages (title and text).")
  number("count", 3, "prompt: how many prompts to print.")
  text(
    "output",
    "",
    "export, prepare: a new directory. Default, of export: WORKDIR/export.",
  )
  choice(
    "dtype",
    "",
    ("", *EXPORT_DTYPES),
    "export: of the weights. Default: that of the model's own files.",
  )
  _define_plan(values)
  _define_prepare(values)
  _define_hosts(values)
  switch("adapter", "export: the LoRA adapter alone, as PEFT reads it.")
  switch("help", "Show this help.", "h")


def _define_reading(values: flags.FlagValues) -> None:
  """Declares how --mode=score reads outputs."""
  number = lambda name, default, low, doc: flags.DEFINE_integer(
    name, default, doc, flag_values=values, lower_bound=low
  )
  number(
    "docs", 0, 0, "score: so many passages of each were shown. 0 = all it has."
  )
  flags.DEFINE_string(
    "refusal_flag",
    config.Rewards().refusal_flag,
    "score: what a refusal says.",
    flag_values=values,
  )
  number(
    "refusal_threshold", 85, 0, "score: a refusal's similarity is above it."
  )
  number(
    "at_most_citations", 3, 1, "score: of a sentence, so many citations count."
  )
  flags.DEFINE_bool(
    "rouge",
    True,
    "score: ROUGE-L too, where there are long references and tensorflow-text.",
    flag_values=values,
  )


def _define_plan(values: flags.FlagValues) -> None:
  """Declares what --mode=plan asks about a machine."""
  flags.DEFINE_integer(
    "devices",
    0,
    "plan: devices of the mesh. Default: as many as it names.",
    0,
    flag_values=values,
  )
  flags.DEFINE_float(
    "hbm_gb",
    0.0,
    "plan: memory of a device in 10^9 bytes, to say whether it fits.",
    0.0,
    flag_values=values,
  )
  flags.DEFINE_string(
    "topology",
    "",
    "compile: the TPUs, like v5e:4x4 or v5p:2x2x1. Needs the extra [tpu].",
    flag_values=values,
  )


def _define_prepare(values: flags.FlagValues) -> None:
  """Declares what --mode=prepare makes records of."""
  text = lambda name, default, doc: flags.DEFINE_string(
    name, default, f"prepare: {doc}", flag_values=values
  )
  number = lambda name, default, doc: flags.DEFINE_integer(
    name, default, f"prepare: {doc}", 0, flag_values=values
  )
  text("corpus", "", "files of passages (title, text) or records, by commas.")
  text("questions", "", "files of questions and answers, or of records.")
  text(
    "held_out",
    "",
    "evaluation files: no record shares a question or gold passage with them.",
  )
  number("record_passages", 5, "passages of a record.")
  number(
    "passage_words",
    100,
    "longer texts are cut into pieces of about so many words. 0 = none is.",
  )
  flags.DEFINE_enum(
    "retriever",
    "bm25",
    ("bm25", "dense"),
    "prepare: what finds passages; dense needs the extra [dense].",
    flag_values=values,
  )
  text("dense_model", "", "of --retriever=dense: a directory, or a hub's name.")
  number("retrieved", 100, "passages looked at for a question.")
  number("confusable", 50, "of those without an answer, so many are used.")
  number("recombinations", 10, "answerable records of a question, at most.")
  text("splits", "80,10,10", "shares of train, dev and test.")
  flags.DEFINE_bool(
    "plain",
    False,
    "prepare: recombine as the paper does, whatever gives answerability away.",
    flag_values=values,
  )
  number("seed", 0, "of all choices.")


def _define_hosts(values: flags.FlagValues) -> None:
  """Declares which process of which run this is, where no pod says it."""
  flags.DEFINE_string(
    "coordinator",
    "",
    "train, eval: HOST:PORT of the run's first process.",
    flag_values=values,
  )
  number = lambda name, default, doc: flags.DEFINE_integer(
    name, default, doc, 0, flag_values=values
  )
  number(
    "processes",
    0,
    "train, eval: processes of the run. 0 = as a pod says; 1 = this one alone.",
  )
  number("process_id", None, "train, eval: which of them this is, from 0.")


def take(argv: Sequence[str], name: str) -> tuple[str | None, list[str]]:
  """The value of --name=value or --name value, and argv without it."""
  value, rest, items = None, [], iter(argv)
  for item in items:
    if re.fullmatch(rf"--?{name}", item):
      value = next(items, "")
    elif re.match(rf"--?{name}=", item):
      value = item.split("=", 1)[1]
    else:
      rest.append(item)
  return value, rest


def load_experiment(location: str) -> config.Experiment:
  """The experiment that FILE.py[:arg] defines."""
  name, _, arg = location.partition(":")
  path = pathlib.Path(name)
  if not path.is_file():
    raise UserError(
      f"--config={location}: {name} {absence(path)}; give the path of an"
      " experiment, for example experiments/quickstart.py."
    )
  # Experiments import `configs`, which lies beside their folder.
  sys.path.append(str(path.absolute().parent.parent))
  spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
  if spec is None:
    raise UserError(f"--config={location}: {name} is not a Python file.")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if "get_config" not in vars(module):
      raise UserError(f"{name} defines no get_config(arg) -> Experiment.")
    experiment = module.get_config(arg)
  except UserError:
    raise
  except Exception as error:
    raise UserError(
      f"{name} cannot be loaded: {_where(error, path)}{type(error).__name__}:"
      f" {' '.join(str(error).split())}"
    ) from error
  if not isinstance(experiment, config.Experiment):
    raise UserError(f"get_config of {name} must return an Experiment.")
  return experiment


def _where(error: Exception, path: pathlib.Path) -> str:
  """The line of the file that an error came from, as words."""
  lines, trace = [], error.__traceback__
  while trace:
    if pathlib.Path(trace.tb_frame.f_code.co_filename) == path.absolute():
      lines.append(trace.tb_lineno)
    trace = trace.tb_next
  if isinstance(error, SyntaxError):
    lines.append(error.lineno)
  return f"line {lines[-1]}, " if lines else ""


def check_overrides(argv: Sequence[str], fields: dict) -> None:
  """Refuses an override of a field that does not exist, by its name."""
  for item in argv:
    match = re.match(r"--?(?:no)?config\.([^=]+)", item)
    if not match:
      continue
    section, where = fields, "config"
    for name in match[1].split("."):
      if not isinstance(section, dict):
        raise UserError(f"{where} is a value: it has no field {name!r}.")
      if name not in section:
        has = ", ".join(section) or "none"
        raise UserError(f"{where} has no field {name!r}; it has: {has}.")
      section, where = section[name], f"{where}.{name}"
    if isinstance(section, dict):
      has = ", ".join(section)
      raise UserError(f"{where} is a section; set one of its fields: {has}.")


def parse(
  argv: Sequence[str],
) -> tuple[flags.FlagValues, config.Experiment | None]:
  """The flags and the experiment, overridden and validated."""
  mode, _ = take(argv, "mode")
  if mode in LATER:
    raise UserError(
      f"--mode={mode} is not part of this version; it has: {', '.join(MODES)}."
    )
  location, argv = take(argv, "config")
  values = flags.FlagValues()
  define_flags(values)
  experiment = None
  if location is not None:
    experiment = load_experiment(location)
    fields = config.to_dict(experiment)
    check_overrides(argv, fields)
    config_flags.DEFINE_config_dict(
      "config",
      config_dict.ConfigDict(fields),
      flag_values=values,
      sys_argv=list(argv),
    )
  try:
    rest = values(list(argv))[1:]
  except (flags.Error, TypeError, ValueError) as error:
    raise UserError(" ".join(str(error).split())) from error
  if rest:
    raise UserError(f"What is {rest[0]!r}? Flags look like --name=value.")
  if experiment is not None:
    fields = in_order(values["config"].value.to_dict(), fields)
    experiment = config.from_dict(config.Experiment, fields)
  return values, experiment


def in_order(values: dict, like: dict) -> dict:
  """The values in the order of `like`: a ConfigDict sorts them by name.

  Stages are run in their order.
  """
  return {
    name: in_order(values[name], old) if isinstance(old, dict) else values[name]
    for name, old in like.items()
  }


def check_flags(values: flags.FlagValues, experiment) -> None:
  """Refuses an unknown mode, a flag of another mode, a missing --config."""
  mode = values["mode"].value
  if mode not in MODES:
    raise UserError(
      f"--mode={mode} does not exist; there is: {', '.join(MODES)}."
    )
  for other, names in MODES.items():
    for name in names:
      if values[name].present and name not in MODES[mode]:
        raise UserError(f"--{name} is for --mode={other}, not --mode={mode}.")
  for name in HOSTS:
    if values[name].present and mode not in TOGETHER:
      raise UserError(
        f"--{name} is for --mode={' and '.join(TOGETHER)}, not --mode={mode}."
      )
  if experiment is not None and mode in WITHOUT_CONFIG:
    raise UserError(f"--mode={mode} reads no --config: leave it out.")
  if experiment is None and mode not in WITHOUT_CONFIG:
    raise UserError(
      f"--mode={mode} needs --config=FILE.py, for example"
      " --config=experiments/quickstart.py; --help tells more."
    )


def run(argv: Sequence[str]) -> int:
  """Does what the command line says; returns 1 if the answer is no."""
  if any(item in ("--help", "-h", "-help") for item in argv[1:]):
    print(help_text())
    return 0
  values, experiment = parse(argv)
  check_flags(values, experiment)
  mode = values["mode"].value
  options = {name: values[name].value for name in MODES[mode]}
  if experiment is not None:
    workdir = values["workdir"].value or f"runs/{experiment.name}"
    options |= {"experiment": experiment, "workdir": files.folder(workdir)}
  if mode not in TOGETHER:
    return _do(mode, options)
  # Here, so that --help and mistakes do not wait for jax.
  from grounded_jax import distributed

  with distributed.together(*(values[name].value for name in HOSTS)):
    return _do(mode, options)


def _do(mode: str, options: dict) -> int:
  """Does a mode, with its options; 1 if the answer is no."""
  from grounded_jax import modes

  code = {
    "train": modes.train,
    "eval": modes.evaluate,
    "score": modes.score,
    "answer": modes.answer,
    "data": modes.data,
    "prompt": modes.prompt,
    "export": modes.export,
    "plan": modes.plan,
    "compile": modes.compile_for,
    "prepare": modes.prepare,
  }[mode](**options)
  return code or 0


def help_text() -> str:
  """This module's description and every flag."""
  values = flags.FlagValues()
  define_flags(values)
  lines = [
    f"  --{name}: {values[name].help} (default: {values[name].default!r})"
    for name in values
    if name not in ("help", "h")
  ]
  return f"{__doc__}\nflags:\n" + "\n".join(lines)


def _write_utf8() -> None:
  """Any text can be printed, whatever the locale: results are UTF-8."""
  for stream, errors in ((sys.stdout, "strict"), (sys.stderr, "replace")):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(encoding="utf-8", errors=errors)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit code."""
  # Libraries that log on import or while saving; errors still show.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
  os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
  os.environ.setdefault("HF_HUB_VERBOSITY", "error")
  absl_logging.set_verbosity(absl_logging.ERROR)
  flags.FLAGS.mark_as_parsed()  # libraries look at absl's global flags
  _write_utf8()
  try:
    return run(sys.argv if argv is None else ["main", *argv])
  except UserError as error:
    print(" ".join(str(error).split()), file=sys.stderr)
    return 2
  except OSError as error:  # a file that may not be read, a full disk
    where = f"{error.filename}: " if error.filename else ""
    print(f"{where}{error.strerror or error}", file=sys.stderr)
    return 2
  except Preempted as notice:
    print(notice, file=sys.stderr)
    return RESTART
  except KeyboardInterrupt:
    print(
      "Stopped. The same command resumes from the last checkpoint.",
      file=sys.stderr,
    )
    return 130


if __name__ == "__main__":
  sys.exit(main())
