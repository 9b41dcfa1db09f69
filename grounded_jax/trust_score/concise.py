"""How much of a record's credit its answer keeps for being short enough.

The published metric reads nothing but what an answer contains: pasting all
passages, each sentence with its own citation, finds every gold and is always
supported.  The reader pays for that in length, so here the credit of a record
(correctness, citation recall and precision) is multiplied by

    brevity = min(1, allowed / used)

`used` counts the characters of the answer without citations and white space,
so that neither long words nor words run together are cheaper.

    allowed = min(250, question + mean passage) + golds

in such characters: a complete answer may say each gold in full, in its longest
wording, and around them a sentence or two (250 characters are about 50 English
words), but no more than the question and one passage, which bounds the share
that copying keeps where passages are short.  It depends on the record alone,
needs no verifier and no splitter, so nothing that an answer says can raise it.

What it does not see: whether what a short answer says besides the golds
matters, and answers whose golds are only a part of what the question needs.
"""

from collections.abc import Mapping
from typing import Any

from grounded_jax import text

STATEMENT = 250  # characters without white space


def brevity(record: Mapping[str, Any]) -> float:
  """The share of its credit that a record keeps, 0 to 1."""
  used = _length(text.remove_citations(record["output"]))
  limit = allowed(record)
  return limit / used if used > limit else 1.0


def allowed(record: Mapping[str, Any]) -> float:
  """The characters that an answer to a record may have for full credit."""
  passages = [_length(doc["text"]) for doc in record["docs"]]
  around = _length(record["question"]) + sum(passages) / len(passages)
  golds = (max(map(_length, x), default=0) for x in record["answers"])
  return float(min(STATEMENT, around) + sum(golds))


def _length(written: str) -> int:
  return sum(map(len, written.split()))
