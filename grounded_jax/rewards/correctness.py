"""R_EM and R_cite: what the statements of an answer earn (paper, Eq. 3-4).

    R_EM(s)   = 0.5 if s states a gold answer, else 0
    R_cite(s) = +0.5 if s states one and its citation is correct
                -penalty (0.5) if s states one and it is wrong or missing

How statements add up is an option; with "first" the others have a price:

    surplus   = -min(earned, sum over other distinct statements of
                             0.1 if the citation is correct else 0.5)
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from grounded_jax import config
from grounded_jax.rewards import statements

Entails = Callable[[statements.Pair], bool]

_HALF = 0.5
_TOP = 5  # a list that names five golds has full recall, as in the metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
  """A statement with what the verifier said of it."""

  said: str  # in normal form
  cited: frozenset[int] = frozenset()
  golds: tuple[int, ...]  # the golds it states
  cited_right: bool
  penalty: float = _HALF  # of a wrong citation

  @property
  def citation(self) -> float:
    return _HALF if self.cited_right else -self.penalty

  @property
  def key(self) -> tuple[str, frozenset[int]]:
    """Equal for a statement and its repetition."""
    return self.said, self.cited


def score(
  cfg: config.Rewards,
  task: str,
  golds: int,
  read: Iterable[statements.Statement],
  entails: Entails,
) -> dict[str, float]:
  """The correctness parts of an answer to an answerable question.

  Args:
    cfg: how statements add up.
    task: of the example.
    golds: how many of its gold answers count.
    read: the statements of the answer.
    entails: what the verifier said of a pair.
  """
  judged = [_judge(cfg, statement, entails) for statement in read]
  price = 0.0
  if cfg.statements == "sum":
    match, citation = literal_sum(judged)
  elif cfg.statements == "mean":
    match, citation = mean(judged)
  elif cfg.statements == "list_f1" and task == "list":
    match, citation = list_f1(judged, golds)
  else:
    match, citation = first_mentions(judged)
    if cfg.statements == "first":
      price = surplus(cfg, judged)
  return {
    "match": match,
    "citation": citation,
    "surplus": 0.0 - min(price, max(match + citation, 0.0)),
  }


def _judge(
  cfg: config.Rewards, statement: statements.Statement, entails: Entails
) -> Judged:
  entailed = [i for i, pair in statement.claims.items() if entails(pair)]
  support = statement.support
  return Judged(
    said=statement.said,
    cited=frozenset(statement.cited),
    golds=statement.golds + tuple(entailed),
    cited_right=bool(support)
    and entails(support[0])
    and not any(entails(pair) for pair in support[1:]),
    penalty=cfg.penalty,
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


def surplus(cfg: config.Rewards, judged: Sequence[Judged]) -> float:
  """The price of the statements that are no gold's first mention.

  An exact repetition is the same statement, and free.
  """
  paid = {statement.key for statement in _first(judged).values()}
  others = {s.key: s for s in reversed(judged) if s.key not in paid}
  prices = (
    cfg.surplus if s.cited_right else cfg.unsupported for s in others.values()
  )
  return sum(prices, 0.0)


def list_f1(judged: Sequence[Judged], golds: int) -> tuple[float, float]:
  """F1 of the distinct items with the golds, times (0.5 + mean citation).

  Recall counts at most five golds, as the metric does; each gold's first
  mention decides its citation.
  """
  first = _first(judged)
  if not first:
    return 0.0, 0.0
  items = {statement.said: bool(statement.golds) for statement in judged}
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
