"""What TRUST does not see: layout, copying, counts of citations and words."""

from collections.abc import Iterable, Mapping
from typing import Any

from grounded_jax import text

_GRAM = 8  # words


def extras(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
  """Means over the records' outputs, beside TRUST.

  `malformed_ratio` and `copy_rate` are percent: outputs whose `raw_output`
  misses the layout (NaN when no record has one), and 8-grams of the answers'
  words that stand in their passages.  The others are counts per record:
  `citations`, `words` and `passage_words`.
  """
  count = raw = malformed = grams = copied = 0
  totals = dict.fromkeys(("citations", "words", "passage_words"), 0)
  for record in records:
    count += 1
    output = record["output"]
    if record.get("raw_output") is not None:
      raw += 1
      malformed += not text.split_layout(record["raw_output"]).holds
    total, found = copying(record)
    grams, copied = grams + total, copied + found
    totals["citations"] += len(text.citations(output))
    totals["words"] += len(text.remove_citations(output).split())
    totals["passage_words"] += sum(
      len(doc["text"].split()) for doc in record["docs"]
    )
  return {
    "malformed_ratio": 100 * malformed / raw if raw else float("nan"),
    "copy_rate": 100 * copied / grams if grams else 0.0,
    **{name: value / max(count, 1) for name, value in totals.items()},
  }


def copying(record: Mapping[str, Any]) -> tuple[int, int]:
  """The 8-grams of an output's words, and how many stand in its passages."""
  own = _grams(text.remove_citations(record["output"]))
  passages = set()
  for doc in record["docs"] if own else ():
    passages.update(_grams(doc["text"]))
  return len(own), sum(gram in passages for gram in own)


def _grams(passage: str) -> list[tuple[str, ...]]:
  words = text.normalize(passage).split()
  return [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
