"""What TRUST does not see: layout, wording, copying, citations and lengths."""

import collections
from collections.abc import Mapping
from typing import Any

from grounded_jax import refusals, text
from grounded_jax.trust_score import rouge

_GRAM = 8  # words
_BATCH = 256  # pairs for one call of ROUGE-L

# Each with its unit; those "of answered" leave the metric's refusals out.
NAMES = {
  "malformed_ratio": "percent of the raw outputs that miss the layout",
  "unmatched_refusals": "outputs that decline but count as answered",
  "unmatched_refusal_ratio": "the same, in percent of the records",
  "copy_rate": "percent of the outputs' 8-grams that stand in their passages",
  "uncited_ratio": "percent of the sentences of answered without a citation",
  "citations": "citations per record",
  "out_of_range_citations": "citations of no passage ([0] too), per record",
  "words": "words per record, citations removed",
  "answered_words": "words per answered",
  "sentences": "sentences (list items) per record",
  "passage_words": "words of the passages per record",
  "rouge_l": "percent, mean of answered that have a long reference",
}


class Extras:
  """Adds up, record by record, what stands beside TRUST (`NAMES`)."""

  def __init__(self, *, with_rouge: bool = False):
    """Starts from nothing; ROUGE-L needs the extra [text] (NaN without)."""
    self._rouge = with_rouge
    self._sums: collections.Counter[str] = collections.Counter()
    self._pairs: list[tuple[str, list[str]]] = []

  def add(self, record: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """Counts a record and its row (`trust_score.iterate`)."""
    sums, output = self._sums, record["output"]
    answered = not row["is_refusal"]
    sums["records"] += 1
    sums["answered"] += answered
    if record.get("raw_output") is not None:
      sums["raw"] += 1
      sums["malformed"] += not text.split_layout(record["raw_output"]).holds
    sums["unmatched"] += answered and refusals.declines(output)
    grams, copied = copying(record)
    sums["grams"] += grams
    sums["copied"] += copied
    sums["sentences"] += len(row["sentences"])
    if answered:
      sums["judged"] += len(row["sentences"])
      sums["uncited"] += sum(not text.citations(s) for s in row["sentences"])
    cited = text.citations(output)
    sums["citations"] += len(cited)
    sums["beyond"] += sum(not 0 <= i < len(record["docs"]) for i in cited)
    words = len(text.remove_citations(output).split())
    sums["words"] += words
    sums["answered_words"] += words * answered
    sums["passage_words"] += sum(len(d["text"].split()) for d in record["docs"])
    if self._rouge and answered and (found := rouge.references(record)):
      self._pairs.append((output, found))
      if len(self._pairs) >= _BATCH:
        self._flush()

  def _flush(self) -> None:
    """Adds the ROUGE-L of the waiting outputs, the best of the references."""
    flat = [(output, x) for output, found in self._pairs for x in found]
    scores = iter(rouge.rouge_l(*zip(*flat, strict=True)) if flat else ())
    for _, found in self._pairs:
      self._sums["rouge_l"] += max(next(scores) for _ in found)
      self._sums["rouge_records"] += 1
    self._pairs.clear()

  def means(self) -> dict[str, float]:
    """The values of `NAMES`; NaN where there is nothing to speak of."""
    self._flush()
    s = self._sums
    records = s["records"]
    return {
      "malformed_ratio": 100 * _mean(s["malformed"], s["raw"]),
      "unmatched_refusals": float(s["unmatched"]),
      "unmatched_refusal_ratio": 100 * _mean(s["unmatched"], records),
      "copy_rate": 100 * s["copied"] / max(s["grams"], 1),
      "uncited_ratio": 100 * _mean(s["uncited"], s["judged"]),
      "citations": _mean(s["citations"], records),
      "out_of_range_citations": _mean(s["beyond"], records),
      "words": _mean(s["words"], records),
      "answered_words": _mean(s["answered_words"], s["answered"]),
      "sentences": _mean(s["sentences"], records),
      "passage_words": _mean(s["passage_words"], records),
      "rouge_l": 100 * _mean(s["rouge_l"], s["rouge_records"]),
    }


def _mean(total: float | int, count: int) -> float:
  return total / count if count else float("nan")


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
