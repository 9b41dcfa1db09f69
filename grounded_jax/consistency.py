"""Does the answer follow from the thought before it?

`think_entails_answer` is %Align (paper.md section 2): the share of answered
outputs whose thought entails the answer, citations removed from both.  In a
list every item must be entailed, as the metric asks it: question + item.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from grounded_jax import text
from grounded_jax.verifiers import Verifier

# A thought that found something names a passage.
_NAMES = re.compile(
  r"\[\d+\]|\b(?:document|doc|passage|result)s?\s+\[?\d", re.IGNORECASE
)
_NOTHING = re.compile(
  r"\b(?:none|nothing|nowhere|neither)\b"
  r"|\bno (?:\w+ )?(?:documents?|passages?|results?|answers?|information"
  r"|mention|evidence)\b"
  r"|\b(?:do|does|did|is|are|was|were|can|could)(?:n['’]t| not|not) (?:\w+ )?"
  r"(?:answer|contain|find|found|given|hold|include|mention|mentioned|provide"
  r"|provided|say|specify|specified|state|stated|tell)\b"
  r"|\bnot what is asked\b",
  re.IGNORECASE,
)


def measure(
  records: Sequence[Mapping[str, Any]],
  rows: Sequence[Mapping[str, Any]],
  verifier: Verifier,
) -> dict[str, float]:
  """Percentages over the outputs that have a thought; NaN where none has.

  `think_entails_answer`: see above.  `decision_consistency`: of the outputs
  whose thought tells its decision, those that refuse if and only if the
  thought found nothing.  A thought tells it that either names a passage or
  says that nothing was found, and not both; `decision_told` is their share.

  Args:
    records: with `raw_output` (the whole completion), task and question.
    rows: `trust_score.per_record` of them.
    verifier: judges what a thought entails, in one call.
  """
  parts = [text.split_layout(r.get("raw_output") or "") for r in records]
  thought = [
    (part, record, row)
    for part, record, row in zip(parts, records, rows, strict=True)
    if part.holds
  ]
  pairs, owners = [], []
  for number, (part, record, row) in enumerate(thought):
    if not row["is_refusal"]:
      premise = text.remove_citations(part.think)
      for statement in _statements(record, part.answer):
        pairs.append((premise, statement))
        owners.append(number)
  verdicts = verifier(*map(list, zip(*pairs, strict=True))) if pairs else ()
  entailed = dict.fromkeys(owners, True)
  for owner, verdict in zip(owners, verdicts, strict=True):
    entailed[owner] &= bool(verdict)
  told = [
    (found, row["is_refusal"])
    for part, _, row in thought
    if (found := found_something(part.think)) is not None
  ]
  return {
    "think_entails_answer": _percent(list(entailed.values())),
    "decision_consistency": _percent([found != no for found, no in told]),
    "decision_told": _percent([True] * len(told), len(thought)),
  }


def _statements(record: Mapping[str, Any], answer: str) -> list[str]:
  """What the thought must entail."""
  if record["task"] != "list":
    return [text.remove_citations(answer)]
  return [
    f"{record['question']} {text.remove_citations(item).strip()}"
    for item in text.list_items(answer)
  ]


def found_something(think: str) -> bool | None:
  """Whether a thought found evidence or none; None: it does not tell."""
  names = _NAMES.search(think) is not None
  nothing = _NOTHING.search(think) is not None
  return names if names != nothing else None


def _percent(values: Sequence[bool], of: int | None = None) -> float:
  of = len(values) if of is None else of
  return 100 * sum(values) / of if of else float("nan")
