"""The statements of an answer: what each says, cites, and must be checked for.

A statement is a sentence, or in the list task an item between commas.
"""

import dataclasses

from grounded_jax import config, text
from grounded_jax.records import Example

Pair = tuple[str, str]  # premise, hypothesis


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
  """One statement of an answer."""

  said: str  # without citations
  hypothesis: str  # what the cited passages must entail
  cited: tuple[int, ...]  # passages counted from 0, repeats and errors included


def split(
  example: Example, answer: str, splitter: text.Splitter
) -> list[Statement]:
  """The statements of an answer that say anything, in order.

  A list item is checked behind its question, which says what it answers.
  """
  listed = example.task == "list"
  out = []
  for piece in text.list_items(answer) if listed else splitter(answer):
    said = text.remove_citations(piece).strip()
    if text.normalize(said):
      out.append(
        Statement(
          said=said,
          hypothesis=f"{example.question} {said}" if listed else said,
          cited=tuple(text.citations(piece)),
        )
      )
  return out


def golds(example: Example) -> list[int]:
  """The gold answers that count: those a shown passage holds."""
  return [i for i, supported in enumerate(example.supported) if supported]


def claim_pairs(example: Example, statement: Statement) -> dict[int, Pair]:
  """For each gold that counts: does the statement entail the claim?"""
  return {i: (statement.said, example.answers[i][0]) for i in golds(example)}


def mentioned(example: Example, statement: Statement) -> list[int]:
  """The golds that count and that a short answer contains or a list item is.

  In normal form; an alias that normalises to nothing matches nothing here.
  """
  said = text.normalize(statement.said)
  whole = example.task == "list"
  return [
    i
    for i in golds(example)
    for aliases in [{text.normalize(a) for a in example.answers[i]} - {""}]
    if (said in aliases if whole else any(a in said for a in aliases))
  ]


def citation_pairs(
  cfg: config.Rewards, example: Example, statement: Statement
) -> list[Pair]:
  """What makes the citation correct: the first entailed, the others not.

  The first pair joins the cited passages; with citation="minimal" each other
  leaves one of them out.  Empty when the citation is wrong without asking:
  missing, out of range or too many.
  """
  cited = statement.cited
  if not cited or not all(0 <= i < len(example.docs) for i in cited):
    return []
  if cfg.max_citations and len(cited) > cfg.max_citations:
    return []
  distinct = list(dict.fromkeys(cited))
  shown = [distinct]
  if cfg.citation == "minimal" and len(distinct) > 1:
    shown += [[i for i in distinct if i != left] for left in distinct]
  return [
    ("\n".join(example.docs[i].premise for i in group), statement.hypothesis)
    for group in shown
  ]
