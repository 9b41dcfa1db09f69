"""Questions with gold answers, and which retrieved passages hold them.

A passage is *valid* where it holds an answer: labelled so by the question's
own record, or found by `support.found` (an alias in whole words, and for
claims and wherever a verifier is at hand its verdict).  It is *invalid* where
it holds none and names none.  What is between - an alias stands there, but the
verifier does not see an answer, or the record labels a longer text of which it
is a piece - is neither and is not used.
"""

import collections
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int8, Int64

from grounded_jax import text
from grounded_jax.data import (
  columns,
  parsing,
  recombination,
  retrieval,
  robustness,
  shortcuts,
  support,
)
from grounded_jax.data import corpus as corpus_lib
from grounded_jax.records import Doc, Example, UserError

_INSIDE = 4  # letters of an alias that must not stand inside a word either


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
  """What is asked, and what its record says of passages."""

  key: str  # digest of its normal form: the order of questions
  example: Example  # without docs
  # Digest of a passage -> its bits; None = it may hold an answer.
  labels: Mapping[int, tuple[int, ...] | None]


def questions(
  what: str, names: Sequence[str], task: str, length: int
) -> Iterator[tuple[str, Question]]:
  """Yields (where, question) for each row of files.

  Args:
    what: the flag that names them.
    names: JSON lines of question, answers, and docs where a passage is
      labelled already; or ALCE's files.
    task: of all of them; "" = the row's own, or its dataset's.
    length: words of a passage, as the corpus is cut.

  Raises:
    UserError: names the file and line of what is no question.
  """
  for name in names:
    dataset = columns.dataset_of(name)
    for where, row in corpus_lib.rows(what, name):
      row = columns.record(where, row, names={}, dataset=dataset, task=task)
      answers = row.get("answers")
      golds = len(answers) if type(answers) is list else 0
      shell = {"title": "", "text": "", "answers_found": [0] * golds}
      found = parsing.parse(where, {**row, "docs": [shell]}, task=task).example
      if not text.normalize(found.question):
        raise UserError(f"{where}: 'question' holds no word.")
      raw = text.normalize(found.question).encode()
      key = hashlib.blake2b(raw, digest_size=8).hexdigest()
      given = "" if row.get("id") is None else found.id
      yield (
        where,
        Question(
          key=key,
          example=dataclasses.replace(found, id=given, docs=()),
          labels=dict(_labels(where, row, found, length)),
        ),
      )


def _labels(
  where: str, row: Mapping, example: Example, length: int
) -> Iterator[tuple[int, tuple[int, ...] | None]]:
  """What a record says of its own passages, each piece of them for itself."""
  docs, golds = row.get("docs") or [], len(example.answers)
  if type(docs) is not list:
    raise UserError(f"{where}: 'docs' must be a list of passages.")
  for number, doc in enumerate(docs, start=1):
    read = corpus_lib.doc_of(f"{where}, doc {number}", doc)
    bits = doc.get("answers_found")
    if bits is not None and (
      type(bits) is not list
      or len(bits) != golds
      or any(bit not in (0, 1) for bit in bits)
    ):
      raise UserError(
        f"{where}, doc {number}: 'answers_found' must hold one 0 or 1 for each"
        f" of the {golds} answers, not {bits!r}."
      )
    pieces = [
      Doc(title=read.title, text=piece)
      for piece in corpus_lib.cut(read.text, length)
    ]
    for piece, own in _of_pieces(example, bits, pieces):
      yield corpus_lib.digest(piece), own


def _of_pieces(
  example: Example, bits: Sequence[int] | None, pieces: Sequence[Doc]
) -> Iterator[tuple[Doc, tuple[int, ...] | None]]:
  """The pieces of a passage that are labelled, with `Question.labels`' value.

  A piece holds those of its passage's answers whose words stand in it; if one
  stands in no piece, any of them may hold it.  Of a passage without a label
  those may where an answer's words stand.
  """
  if len(pieces) == 1 and bits is not None:
    yield pieces[0], tuple(int(bit) for bit in bits)
    return
  asked = (example.question, example.task, example.answers)
  stands = np.array([d.answers_found for d in support.found(*asked, pieces)])
  if bits is not None:
    stands = stands & np.array(bits)
  placed = bits is not None and (stands.any(axis=0) == bits).all()
  for piece, own in zip(pieces, stands.tolist(), strict=True):
    if placed:
      yield piece, tuple(own)
    elif bits is not None or any(own):
      yield piece, None


def may_hold(bits: Sequence[int] | None) -> bool:
  """Whether a passage with this label may hold an answer."""
  return bits is None or any(bits)


def distinct(found: Sequence[Question]) -> list[Question]:
  """Each question once, in the order of their keys, with ids that differ."""
  best = {}
  for question in found:
    old = best.setdefault(question.key, question)
    if _rank(question) < _rank(old):
      best[question.key] = question
  ids = collections.Counter(q.example.id for q in best.values())
  out = []
  for key, question in sorted(best.items()):
    name = question.example.id
    if not name or ids[name] > 1:
      name = f"{name}.{key}" if name else key
    example = dataclasses.replace(question.example, id=name)
    out.append(dataclasses.replace(question, example=example))
  return out


def _rank(question: Question) -> tuple:
  example = question.example
  return -len(question.labels), example.id, example.question, example.answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
  """A question's passages: valid ones, then invalid ones, the best first."""

  question: Question
  numbers: tuple[int, ...]  # in the corpus
  held: recombination.Held
  features: Float32[np.ndarray, "N F"]  # shortcuts.FEATURES of each

  @property
  def bits(self) -> Int8[np.ndarray, "N A"]:
    """answers_found of each passage."""
    empty = np.zeros((self.held.invalid, self.held.bits.shape[1]), np.int8)
    return np.concatenate([self.held.bits, empty])


def candidates(
  question: Question,
  corpus: corpus_lib.Corpus,
  scores: Float32[np.ndarray, " D"],
  found: Int64[np.ndarray, " K"],
  confusable: int,
  verifier: support.Verifier | None,
) -> Candidates:
  """The question's valid passages, and its first `confusable` invalid ones.

  Args:
    question: whose labels hold where it has any.
    corpus: of the passages.
    scores: of every passage for this question.
    found: the numbers of the retrieved ones, the best first.
    confusable: invalid passages kept.
    verifier: asked about answers that are found, and about claims; None =
      words decide.
  """
  numbers = found.tolist()
  labelled, doubtful = {}, set()
  for digest, bits in sorted(question.labels.items()):
    number = corpus.find(digest)
    if number is None:
      continue
    if bits is None:
      doubtful.add(number)
    else:
      labelled[number] = bits
    if may_hold(bits) and number not in numbers:
      numbers.append(number)
  docs = [
    dataclasses.replace(corpus[n], answers_found=labelled.get(n, ()))
    for n in numbers
  ]
  example = question.example
  docs = support.found(
    example.question, example.task, example.answers, docs, verifier
  )
  names = Names(example)
  valid = [i for i, doc in enumerate(docs) if any(doc.answers_found)]
  invalid = [
    i
    for i, (number, doc) in enumerate(zip(numbers, docs, strict=True))
    if not any(doc.answers_found)
    and number not in doubtful
    and not names.stand_in(doc)
  ][:confusable]
  kept = [docs[i] for i in valid + invalid]
  numbers = [numbers[i] for i in valid + invalid]
  said = [corpus_lib.words(f"{doc.title} {doc.text}") for doc in kept]
  bits = np.array([docs[i].answers_found for i in valid], np.int8)
  return Candidates(
    question=question,
    numbers=tuple(numbers),
    held=recombination.Held(
      bits=bits.reshape(len(valid), len(example.answers)),
      likeness=recombination.likeness(said),
    ),
    features=shortcuts.features(
      retrieval.content(example.question), kept, said, scores[numbers]
    ),
  )


class Names:
  """The gold answers of a question that are names, not claims."""

  def __init__(self, example: Example):
    golds = () if example.task == "claims" else example.answers
    forms = {f for gold in golds for a in gold for f in robustness.forms(a)}
    long = [form for form in forms if len(form) >= _INSIDE]
    whole = [f" {form} " for form in forms if len(form) < _INSIDE]
    pattern = "|".join(map(re.escape, sorted((*long, *whole))))
    self._pattern = re.compile(pattern or r"(?!)")

  def stand_in(self, doc: Doc) -> bool:
    """Whether a passage holds one: short ones count as whole words only."""
    return bool(self._pattern.search(robustness.words(doc)))
