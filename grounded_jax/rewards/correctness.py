"""R_EM and R_cite: what the statements of an answer earn (paper, Eq. 3-4).

A matched statement earns 0.5, and 0.5 more or less by its citation, where a
missing citation is an incorrect one.  How statements add up is an option.
"""

import dataclasses
from collections.abc import Callable, Sequence

from grounded_jax import config, text
from grounded_jax.records import Example
from grounded_jax.rewards import statements

Entails = Callable[[statements.Pair], bool]

_HALF = 0.5
_TOP = 5  # a list that names five golds has full recall, as in the metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
  """A statement with what the verifier said of it."""

  said: str
  golds: tuple[int, ...]  # the golds it states
  cited_right: bool

  @property
  def citation(self) -> float:
    return _HALF if self.cited_right else -_HALF


def pairs(
  cfg: config.Rewards, example: Example, answer: str
) -> list[statements.Pair]:
  """Every pair that `score` may look up for this answer."""
  out = []
  for statement in _split(cfg, example, answer):
    if example.task == "claims":
      out += statements.claim_pairs(example, statement).values()
    elif not statements.mentioned(example, statement):
      continue
    out += statements.citation_pairs(cfg, example, statement)
  return out


def score(
  cfg: config.Rewards, example: Example, answer: str, entails: Entails
) -> tuple[float, float]:
  """The match and citation parts of an answer to an answerable question."""
  judged = [
    _judge(cfg, example, statement, entails)
    for statement in _split(cfg, example, answer)
  ]
  if cfg.statements == "sum":
    return literal_sum(judged)
  if cfg.statements == "mean":
    return mean(judged)
  if cfg.statements == "list_f1" and example.task == "list":
    return list_f1(judged, len(statements.golds(example)))
  return first_mentions(judged)


def _split(
  cfg: config.Rewards, example: Example, answer: str
) -> list[statements.Statement]:
  return statements.split(example, answer, text.splitter(cfg.splitter))


def _judge(
  cfg: config.Rewards,
  example: Example,
  statement: statements.Statement,
  entails: Entails,
) -> Judged:
  if example.task == "claims":
    claims = statements.claim_pairs(example, statement)
    golds = [i for i, pair in claims.items() if entails(pair)]
  else:
    golds = statements.mentioned(example, statement)
  asked = statements.citation_pairs(cfg, example, statement) if golds else []
  return Judged(
    said=statement.said,
    golds=tuple(golds),
    cited_right=bool(asked)
    and entails(asked[0])
    and not any(entails(pair) for pair in asked[1:]),
  )


def literal_sum(judged: Sequence[Judged]) -> tuple[float, float]:
  """The sum over matched statements, as printed: repetition pays."""
  hits = [statement for statement in judged if statement.golds]
  return _HALF * len(hits), sum((s.citation for s in hits), 0.0)


def mean(judged: Sequence[Judged]) -> tuple[float, float]:
  """The sum over matched statements, divided by all statements."""
  match, citation = literal_sum(judged)
  count = max(len(judged), 1)
  return match / count, citation / count


def first_mentions(judged: Sequence[Judged]) -> tuple[float, float]:
  """Each gold pays once; its first mention decides match and citation."""
  first = _first(judged)
  return _HALF * len(first), sum((s.citation for s in first.values()), 0.0)


def list_f1(judged: Sequence[Judged], golds: int) -> tuple[float, float]:
  """F1 of the distinct items with the golds, times (0.5 + mean citation).

  Recall counts at most five golds, as the metric does; each gold's first
  mention decides its citation.
  """
  first = _first(judged)
  if not first:
    return 0.0, 0.0
  items = {text.normalize(s.said): bool(s.golds) for s in judged}
  precision = sum(items.values()) / len(items)
  recall = min(_TOP, len(first)) / min(_TOP, golds)
  f1 = 2 * precision * recall / (precision + recall)
  citation = sum(s.citation for s in first.values()) / len(first)
  return _HALF * f1, citation * f1


def _first(judged: Sequence[Judged]) -> dict[int, Judged]:
  """For each gold that is stated, the first statement of it."""
  out: dict[int, Judged] = {}
  for statement in judged:
    for gold in statement.golds:
      out.setdefault(gold, statement)
  return out
