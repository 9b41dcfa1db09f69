"""Which passage holds which answer: `answers_found` where a record lacks it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grounded_jax import text
from grounded_jax.records import Doc

Verifier = Callable[[Sequence[str], Sequence[str]], Sequence[bool]]


def answerable(docs: Sequence[Doc]) -> bool:
  """Whether any of the docs holds any answer."""
  return any(any(doc.answers_found) for doc in docs)


def found(
  question: str,
  task: str,
  answers: Sequence[Sequence[str]],
  docs: Sequence[Doc],
  verifier: Verifier | None = None,
  *,
  confirm: bool = True,
) -> tuple[Doc, ...]:
  """The docs with answers_found computed for those that lack it.

  An alias counts where it stands as whole words in the normalised title and
  text; if `confirm`, the verifier must also find `question + alias` entailed.
  For claims the verifier alone decides.
  """
  pairs, slots = [], []
  bits = [list(doc.answers_found) or [0] * len(answers) for doc in docs]
  for d, doc in enumerate(docs):
    if doc.answers_found:
      continue
    words = f" {text.normalize(f'{doc.title} {doc.text}')} "
    for a, aliases in enumerate(answers):
      normal = [text.normalize(alias) for alias in aliases]
      match = any(alias and f" {alias} " in words for alias in normal)
      if verifier is None or (task != "claims" and not confirm):
        bits[d][a] = int(match)
      elif match or task == "claims":
        asked = "" if task == "claims" else f"{question} "
        pairs.append((doc.premise, f"{asked}{aliases[0]}"))
        slots.append((d, a))
  if verifier is not None and pairs:
    verdicts = verifier(*zip(*pairs, strict=True))
    for (d, a), verdict in zip(slots, verdicts, strict=True):
      bits[d][a] = int(verdict)
  return tuple(
    dataclasses.replace(doc, answers_found=tuple(row))
    for doc, row in zip(docs, bits, strict=True)
  )


def completed(
  record: Mapping[str, Any], verifier: Verifier
) -> Mapping[str, Any]:
  """The record itself if it has all answers_found, else one that does.

  As `found` computes them: for claims the verifier decides, else the words.
  """
  docs = record.get("docs") or ()
  if all(doc.get("answers_found") is not None for doc in docs):
    return record
  docs = [
    Doc(
      title=doc["title"],
      text=doc["text"],
      answers_found=tuple(doc.get("answers_found") or ()),
    )
    for doc in docs
  ]
  docs = found(
    record["question"],
    record["task"],
    record["answers"],
    docs,
    verifier,
    confirm=False,
  )
  return {**record, "docs": [dataclasses.asdict(doc) for doc in docs]}
