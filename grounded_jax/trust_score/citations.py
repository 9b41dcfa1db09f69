"""Citation recall and precision of outputs (TRUST-SCORE, paper.md section 5).

The verifier is asked in three rounds over all the records given: each cited
sentence against its passages together; then each passage alone, where several
entail together; then the others together, where one does not entail alone.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grounded_jax import text
from grounded_jax.verifiers import Verifier

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cited:
  """What the sentences of one output earn."""

  sentences: tuple[str, ...]  # list items stand behind the question
  recall: float | None  # 0..1; None when there is no sentence
  precision: float | None  # 0..1; 0 when nothing countable is cited


@dataclasses.dataclass(kw_only=True)
class _Sentence:
  """A sentence whose citations are all in range, and its passages' hits."""

  record: Record
  hypothesis: str
  cited: list[int]  # at most the first so many, repeats included
  entailed: bool = False
  hits: int = 0

  def premise(self, cited: Sequence[int]) -> str:
    return "\n".join(premise(self.record["docs"][index]) for index in cited)

  def others(self, place: int) -> list[int]:
    """The citations left when the passage at `place` is taken out once."""
    rest = list(self.cited)
    rest.remove(self.cited[place])
    return rest

  def forgiven(self, place: int) -> bool:
    """Whether the passage shares a supported gold with the other cited ones."""
    docs = self.record["docs"]
    own = docs[self.cited[place]]["answers_found"]
    return any(
      bit and other
      for index in self.others(place)
      for bit, other in zip(own, docs[index]["answers_found"], strict=True)
    )


def premise(doc: Record) -> str:
  """A passage as the verifier reads it."""
  return f"Title: {doc['title']}\n{doc['text']}"


def ask(verifier: Verifier, pairs: Sequence[tuple[str, str]]) -> Iterator[bool]:
  """An answer for each (premise, hypothesis), from one call without repeats."""
  unique = dict.fromkeys(pairs)
  if unique:
    premises, hypotheses = zip(*unique, strict=True)
    answers = verifier(list(premises), list(hypotheses))
    unique.update(zip(unique, map(bool, answers), strict=True))
  return iter([bool(unique[pair]) for pair in pairs])


def check(
  records: Sequence[Record],
  *,
  task: str,
  verifier: Verifier,
  splitter: text.Splitter,
  at_most_citations: int,
) -> list[Cited]:
  """The citation scores of each record's output."""
  texts = [_split(record, task, splitter) for record in records]
  checked = [
    [_sentence(record, sentence, at_most_citations) for sentence in sentences]
    for record, sentences in zip(records, texts, strict=True)
  ]
  _judge([s for sentences in checked for s in sentences if s], verifier)
  return [
    _score(sentences, judged)
    for sentences, judged in zip(texts, checked, strict=True)
  ]


def _split(record: Record, task: str, splitter: text.Splitter) -> list[str]:
  if task == "list":
    question = record["question"]
    return [f"{question} {item}" for item in text.list_items(record["output"])]
  return list(splitter(record["output"]))


def _sentence(record: Record, sentence: str, at_most: int) -> _Sentence | None:
  """The sentence as it is checked; None without citations or out of range.

  One number out of range voids the sentence even where it stands after the
  first `at_most`; "[0]" is the last passage (both as published).
  """
  cited = text.citations(sentence)
  if not cited or any(index >= len(record["docs"]) for index in cited):
    return None
  return _Sentence(
    record=record,
    hypothesis=text.remove_citations(sentence).strip(),
    cited=cited[:at_most],
  )


def _judge(sentences: list[_Sentence], verifier: Verifier) -> None:
  """Fills in `entailed` and `hits` of every sentence."""
  answers = ask(
    verifier, [(s.premise(s.cited), s.hypothesis) for s in sentences]
  )
  for sentence in sentences:
    sentence.entailed = next(answers)
    sentence.hits = int(sentence.entailed)
  several = [s for s in sentences if s.entailed and len(s.cited) > 1]
  answers = ask(
    verifier, [(s.premise([i]), s.hypothesis) for s in several for i in s.cited]
  )
  doubtful = []
  for sentence in several:
    sentence.hits = 0
    for place in range(len(sentence.cited)):
      if next(answers) or sentence.forgiven(place):
        sentence.hits += 1
      else:
        doubtful.append((sentence, place))
  answers = ask(
    verifier,
    [(s.premise(s.others(place)), s.hypothesis) for s, place in doubtful],
  )
  for sentence, _ in doubtful:
    sentence.hits += not next(answers)  # needed: the others do not suffice


def _score(sentences: list[str], judged: list[_Sentence | None]) -> Cited:
  if not sentences:
    return Cited(sentences=(), recall=None, precision=None)
  valid = [sentence for sentence in judged if sentence]
  total = sum(len(sentence.cited) for sentence in valid)
  hits = sum(sentence.hits for sentence in valid)
  return Cited(
    sentences=tuple(sentences),
    recall=sum(sentence.entailed for sentence in valid) / len(sentences),
    precision=hits / total if total else 0.0,
  )
