"""The statements of an answer: what each says, cites, and must be checked for.

A statement is a sentence, or in the list task an item between commas.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

from grounded_jax import config, text
from grounded_jax.records import Example

Pair = tuple[str, str]  # premise, hypothesis


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
  """One statement of an answer, and what the verifier is asked about it."""

  said: str  # in normal form, without citations
  cited: tuple[int, ...]  # passages counted from 0, repeats and errors included
  golds: tuple[int, ...]  # golds it names (short) or is (list)
  claims: Mapping[int, Pair]  # claims: for each gold, does it entail the claim?
  # What makes its citation correct: the first is entailed, the others are not.
  # Empty when the citation is wrong without asking, or never looked at.
  support: tuple[Pair, ...]

  @property
  def pairs(self) -> tuple[Pair, ...]:
    return (*self.claims.values(), *self.support)


def read(
  cfg: config.Rewards, example: Example, answer: str
) -> tuple[Statement, ...]:
  """The statements of an answer that say anything, in order."""
  golds = supported(example)
  premises = [doc.premise for doc in example.docs]
  out = []
  for piece in _pieces(cfg, example, answer):
    plain = text.remove_citations(piece).strip()
    said = text.normalize(plain)
    if not said:
      continue
    named, claims = (), {}
    if example.task == "claims":
      claims = {i: (plain, example.answers[i][0]) for i in golds}
    else:
      named = tuple(_named(example, said, golds))
    cited = tuple(text.citations(piece))
    support = ()
    if named or claims or _charges(cfg):
      support = tuple(
        (premise, _hypothesis(example, plain))
        for premise in _premises(cfg, premises, cited)
      )
    out.append(
      Statement(
        said=said, cited=cited, golds=named, claims=claims, support=support
      )
    )
  return tuple(out)


def supported(example: Example) -> list[int]:
  """The gold answers that count: those a shown passage holds."""
  return [i for i, held in enumerate(example.supported) if held]


def _charges(cfg: config.Rewards) -> bool:
  """Whether statements that name no gold may cost something."""
  return cfg.statements == "first" and cfg.unsupported + cfg.surplus > 0


def _pieces(
  cfg: config.Rewards, example: Example, answer: str
) -> Sequence[str]:
  if example.task == "list":
    return text.list_items(answer)
  return text.splitter(cfg.splitter)(answer)


def _hypothesis(example: Example, plain: str) -> str:
  """What the cited passages must entail.

  A list item stands behind its question, which says what it answers.
  """
  return f"{example.question} {plain}" if example.task == "list" else plain


def _named(example: Example, said: str, golds: Sequence[int]) -> Iterator[int]:
  """The golds of which a short answer contains an alias, or a list item is one.

  In normal form; an alias that normalises to nothing matches nothing here.
  """
  for i in golds:
    aliases = _normal(example.answers[i])
    if example.task == "list":
      if said in aliases:
        yield i
    elif any(alias in said for alias in aliases):
      yield i


# A group's statements are all compared with the same aliases.
@functools.lru_cache(maxsize=4096)
def _normal(aliases: tuple[str, ...]) -> frozenset[str]:
  return frozenset(map(text.normalize, aliases)) - {""}


def _premises(
  cfg: config.Rewards, premises: Sequence[str], cited: Sequence[int]
) -> list[str]:
  """The cited passages joined; with citation="minimal" also without each one.

  Empty when the citation is wrong without asking: missing, out of range or
  too many.
  """
  if not cited or not all(0 <= i < len(premises) for i in cited):
    return []
  if cfg.max_citations and len(cited) > cfg.max_citations:
    return []
  distinct = list(dict.fromkeys(cited))
  shown = [distinct]
  if cfg.citation == "minimal" and len(distinct) > 1:
    shown += [[i for i in distinct if i != left] for left in distinct]
  return ["\n".join(premises[i] for i in group) for group in shown]
