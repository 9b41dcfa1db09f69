"""Answer correctness of outputs (TRUST-SCORE, paper.md section 5).

What counts is the share of the golds that the passages support: by substring
for short answers, by equal items for lists, by entailment for claims.
"""

from collections.abc import Sequence

from grounded_jax import text

TOP = 5  # a list that names five golds has full recall


def contained(answers: Sequence[Sequence[str]], output: str) -> list[bool]:
  """For each gold, whether any alias is a substring of the output.

  Both in normal form; an alias that normalises to nothing is always found.
  """
  normal = text.normalize(output)
  return [
    any(text.normalize(alias) in normal for alias in aliases)
    for aliases in answers
  ]


def listed(answers: Sequence[Sequence[str]], output: str) -> list[bool]:
  """For each gold, whether any alias equals an item of the list output."""
  items = set(_items(output))
  return [
    any(text.normalize(alias) in items for alias in aliases)
    for aliases in answers
  ]


def share(found: Sequence[bool], supported: Sequence[bool]) -> float:
  """The share of the supported golds that are found; 0 without any."""
  hits = [hit for hit, counts in zip(found, supported, strict=True) if counts]
  return sum(hits) / len(hits) if hits else 0.0


def parametric(
  found: Sequence[bool], supported: Sequence[bool], most: int | None = None
) -> float:
  """The share of all golds that is found only beside the passages' support.

  Recall of all golds minus recall of the supported ones among all, each with
  at most `most` hits and golds (as published; None = all of them).
  """
  hits = sum(
    hit and counts for hit, counts in zip(found, supported, strict=True)
  )
  if not found:
    return 0.0
  most = len(found) if most is None else most
  return (min(most, sum(found)) - min(most, hits)) / min(most, len(found))


def list_f1(
  answers: Sequence[Sequence[str]],
  output: str,
  found: Sequence[bool],
  supported: Sequence[bool],
) -> float:
  """The F1 of a list's items with the supported golds, recall of the top five.

  Precision counts every item, repeats included (as published).
  """
  golds = [a for a, counts in zip(answers, supported, strict=True) if counts]
  items = _items(output)
  if not golds or not items:
    return 0.0
  aliases = {text.normalize(alias) for gold in golds for alias in gold}
  precision = sum(item in aliases for item in items) / len(items)
  hits = sum(h for h, counts in zip(found, supported, strict=True) if counts)
  recall = min(TOP, hits) / min(TOP, len(golds))
  both = precision + recall
  return 2 * precision * recall / both if both else 0.0


def _items(output: str) -> list[str]:
  items = (text.normalize(item) for item in text.list_items(output))
  return [item for item in items if item]
