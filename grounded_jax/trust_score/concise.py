"""How much of a record's credit its answer keeps for being short enough.

The published metric reads nothing but what an answer contains: pasting all
passages, each sentence with its own citation, finds every gold and is always
supported.  The reader pays for that in length, so here the credit of a record
(correctness, citation recall and precision) is multiplied by

    brevity = min(1, allowed / used)

`used` counts the characters of the answer without citations and white space,
so that neither long words nor words run together are cheaper.  `allowed` is
250 characters (about 50 English words: a sentence or two) plus all golds of
the question, each in its longest wording: a complete answer may say each of
them in full and 250 characters around.  It depends on the record alone, needs
no verifier and no splitter, so nothing that an answer says can raise it.

What it does not see: whether what a short answer says besides the golds
matters, and answers whose golds are only a part of what the question needs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from grounded_jax import text

STATEMENT = 250  # characters without white space


def brevity(record: Mapping[str, Any]) -> float:
  """The share of its credit that a record keeps, above 0 and at most 1."""
  used = _length(text.remove_citations(record["output"]))
  limit = allowed(record["answers"])
  return limit / max(limit, used)


def allowed(answers: Sequence[Sequence[str]]) -> int:
  """The characters that an answer to these golds may have for full credit."""
  longest = (max(map(_length, aliases), default=0) for aliases in answers)
  return STATEMENT + sum(longest)


def _length(written: str) -> int:
  return sum(map(len, written.split()))
