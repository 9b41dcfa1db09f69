"""How much a policy's score depends on how its passages are presented.

An evaluation set is asked again under changed passages (data/robustness.py,
data/counterfactual.py) and compared with itself unchanged, record by record.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from grounded_jax import (
  config,
  evaluate,
  inputs,
  log,
  pipeline,
  trust_score,
  verifiers,
)
from grounded_jax import policy as policy_lib
from grounded_jax import tokenizer as tokenizer_lib
from grounded_jax.data import counterfactual, robustness
from grounded_jax.records import Doc, Example, UserError

Makers = dict[str, Callable[[Example], robustness.Variant]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
  """Which changed sets are evaluated beside every set."""

  shuffle: bool = False
  counts: tuple[int, ...] = ()  # of passages, each a set
  counterfactual: bool = False
  remove_evidence: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Set:
  """A changed evaluation set."""

  name: str  # the evaluation's and the change's
  change: str
  fitted: inputs.Fitted
  origin: tuple[int, ...]  # of each example, its place in the unchanged set
  made: tuple[robustness.Variant, ...]  # of each example, before it was fitted
  statistics: dict[str, Any]


def parse_counts(flag: str) -> tuple[int, ...]:
  """The numbers of --passage_count=1,3,10, each once.

  Raises:
    UserError: one of them is not a number from 1 to 10.
  """
  parts = [part.strip() for part in flag.split(",")] if flag else []
  for part in parts:
    if not part.isdecimal() or not 1 <= int(part) <= 10:
      raise UserError(
        f"--passage_count={flag}: {part!r} is not a number of passages from 1"
        " to 10; separate several by commas, as in 1,3,10."
      )
  return tuple(dict.fromkeys(map(int, parts)))


def prepare(
  wanted: Wanted,
  experiment: config.Experiment,
  tokenizer: tokenizer_lib.Tokenizer,
  sets: dict[str, inputs.Fitted],
) -> dict[str, list[Set]]:
  """The changed sets of every evaluation, with their prompts, said in words.

  Raises:
    UserError: a prompt does not fit, or a name is taken.
  """
  out = {}
  for item in experiment.evals:
    examples = [example for example, _ in sets[item.name]]
    out[item.name] = []
    for change, make in _makers(wanted, experiment, item, examples).items():
      name = f"{item.name}-{change}"
      if name in sets:
        raise UserError(
          f"The evaluation {name} has the name of {item.name} with changed"
          " passages: call it otherwise."
        )
      variants = [make(example) for example in examples]
      made = _set(name, change, variants, tokenizer, experiment.data)
      out[item.name].append(made)
      for note in _notes(made, tokenizer, experiment.data):
        log.say(note)
  return out


def _makers(
  wanted: Wanted,
  experiment: config.Experiment,
  item: config.Eval,
  examples: Sequence[Example],
) -> Makers:
  """What makes each wanted change, by the change's name."""
  pool, names = robustness.pool(examples), counterfactual.names(examples)
  seed, judge = experiment.seed, verifiers.make(item.headline)
  makers: Makers = {}
  if wanted.shuffle:
    makers["shuffled"] = lambda e: robustness.shuffled(e, seed=seed)
  spare = _spare(experiment.data, item, examples, max(wanted.counts, default=0))
  for count in wanted.counts:
    makers[f"passages{count}"] = lambda e, count=count: robustness.counted(
      *(e, count, pool), seed=seed, spare=spare.get(e.id, ()), verifier=judge
    )
  if wanted.counterfactual:
    makers["counterfactual"] = lambda e: counterfactual.counterfactual(
      e, names, seed=seed
    )
  if wanted.remove_evidence:
    makers["no_evidence"] = lambda e: robustness.without_evidence(
      e, pool, seed=seed, verifier=judge
    )
  return makers


def _spare(
  data: config.Data,
  item: config.Eval,
  examples: Sequence[Example],
  most: int,
) -> dict[str, tuple[Doc, ...]]:
  """Passages that the records have beyond those shown, by the example's id."""
  if most <= data.passages or item.source.path.startswith("world:"):
    return {}
  everything = dataclasses.replace(
    item.source, answerable="any", balance=False, limit=0
  )
  wide = dataclasses.replace(data, passages=most)
  found, _ = inputs.records(wide, everything, item.headline)
  docs = {example.id: example.docs for example in found}
  return {e.id: docs[e.id][data.passages :] for e in examples}


def _set(
  name: str,
  change: str,
  variants: Sequence[robustness.Variant],
  tokenizer: tokenizer_lib.Tokenizer,
  data: config.Data,
) -> Set:
  kept = [(i, v) for i, v in enumerate(variants) if v.example is not None]
  fitted, fits = [], None
  if kept:
    changed = [variant.example for _, variant in kept]
    fitted, fits = pipeline.fit_all(changed, tokenizer, data)
  unmade = collections.Counter(v.why for v in variants if v.why)
  return Set(
    name=name,
    change=change,
    fitted=fitted,
    origin=tuple(i for i, _ in kept),
    made=tuple(variant for _, variant in kept),
    statistics={
      "change": change,
      "records": len(kept),
      "not_made": dict(unmade),
      "fits": dataclasses.asdict(fits) if fits else None,
    },
  )


def _notes(
  made: Set, tokenizer: tokenizer_lib.Tokenizer, data: config.Data
) -> Iterator[str]:
  """What a user should know about a set before its numbers."""
  unmade = made.statistics["not_made"]
  if unmade:
    whys = ", ".join(f"{n} because {why}" for why, n in unmade.items())
    yield f"{made.name}: {len(made.origin)} records; not made: {whys}."
  fits = made.statistics["fits"]
  if fits and fits["shortened"]:
    yield (
      f"{made.name}: {fits['shortened']} of {fits['prompts']} prompts lost"
      f" {fits['passages']} passages to data.max_prompt_len="
      f"{data.max_prompt_len}, which left {fits['flipped']} unanswerable; raise"
      " it with --config.data.max_prompt_len."
    )
  most = max((len(example.docs) for example, _ in made.fitted), default=0)
  unknown = [
    k
    for k in range(1, most + 1)
    if f"[{k}]" not in tokenizer.decode(tokenizer.encode(f" [{k}]"))
  ]
  if unknown:
    yield (
      f"{made.name}: the tokenizer cannot write the passage number"
      f" {unknown[0]}: from there on passages cannot be cited."
    )


def run(
  policy: policy_lib.Policy,
  params: Any,
  made: Set,
  base: evaluate.Result,
  cfg: config.Eval,
  *,
  data: config.Data,
  rewards: config.Rewards,
  seed: int,
) -> evaluate.Result:
  """The evaluation of a changed set, beside the same records unchanged.

  `change` says what was made, `unchanged` has the scores of the same records
  in the unchanged set, `difference` [changed - unchanged, low, high] of each
  metric, paired.  A set without records has `change` alone.

  Args:
    policy: as for `evaluate.run`, like the arguments not named here.
    made: the changed set.
    base: the evaluation of the unchanged one.
  """
  if not made.fitted:
    metrics = {"change": made.statistics}
    return evaluate.Result(metrics=metrics, records=[], rows=[])
  result = evaluate.run(
    *(policy, params, made.fitted, cfg), data=data, rewards=rewards, seed=seed
  )
  before = [base.rows[i] for i in made.origin]
  paired = trust_score.difference(result.rows, before, n=cfg.bootstrap)
  metrics = result.metrics | {
    "change": made.statistics,
    "unchanged": trust_score.by_task(before)["macro"],
    "difference": {name: list(values) for name, values in paired.items()},
  }
  if made.change == "counterfactual":
    outputs = [record["output"] for record in result.records]
    metrics["change"] |= counterfactual.follows(outputs, made.made)
  return dataclasses.replace(result, metrics=metrics)
