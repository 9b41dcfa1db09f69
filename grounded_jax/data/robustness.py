"""Robustness sets: questions as they are shown, under changed passages.

Each function takes an example and gives the changed one, or says why there is
none.  A change is a function of (seed, the example's id, the passages of the
other records); `answers_found` travels with its passage and `answerable` is
computed anew.  A distractor is a passage of a record with another question
that holds no alias of any gold answer as whole words, compared in normal forms;
for claims a verifier, where there is one, must not find any of them in it.
"""

import dataclasses
import random
import re
from collections.abc import Iterable, Sequence

from grounded_jax import text
from grounded_jax.data import support
from grounded_jax.records import Doc, Example

_TRIES = 500  # passages looked at for the distractors of one example
_PUNCTUATION = re.compile(r"[^\w\s]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """A changed example, or why it cannot be made."""

  example: Example | None = None
  why: str = ""  # "" = it was made
  # Counterfactual: for each gold its aliases before; () = it was not swapped.
  original: tuple[tuple[str, ...], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passage:
  """A passage with the questions that it was shown for."""

  doc: Doc
  words: str  # of `words`
  questions: frozenset[str]  # in normal form


def pool(examples: Iterable[Example]) -> tuple[Passage, ...]:
  """Every passage of the examples once: where distractors come from."""
  docs, questions = {}, {}
  for example in examples:
    for doc in example.docs:
      key = doc.title, doc.text
      docs.setdefault(key, doc)
      questions.setdefault(key, set()).add(text.normalize(example.question))
  return tuple(
    Passage(doc=doc, words=words(doc), questions=frozenset(questions[key]))
    for key, doc in docs.items()
  )


def forms(words: str) -> tuple[str, ...]:
  """The normal form, and that with spaces for punctuation; neither is empty.

  "sea-salt" is "seasalt" and "sea salt".
  """
  spaced = _PUNCTUATION.sub(" ", words)
  both = (text.normalize(words), text.normalize(spaced))
  return tuple(dict.fromkeys(filter(None, both)))


def words(doc: Doc) -> str:
  """Both forms of a passage, padded so that whole words can be found."""
  return f" {' | '.join(forms(f'{doc.title} {doc.text}'))} "


def aliases(example: Example) -> tuple[str, ...]:
  """Both forms of every alias of every gold answer."""
  every = (form for gold in example.answers for a in gold for form in forms(a))
  return tuple(dict.fromkeys(every))


def changed(example: Example, name: str, docs: Sequence[Doc]) -> Example:
  """The example with these docs, answerability recomputed, id "ID~NAME"."""
  return dataclasses.replace(
    example,
    id=f"{example.id}~{name}",
    docs=tuple(docs),
    answerable=support.answerable(docs),
  )


def draws(seed: int, name: str, example: Example) -> random.Random:
  """The random numbers of one change of one example."""
  return random.Random(f"{seed}/{name}/{example.id}")


def shuffled(example: Example, *, seed: int) -> Variant:
  """The same passages in another order."""
  if len(example.docs) < 2:
    return Variant(why="it has one passage")
  rng = draws(seed, "shuffled", example)
  order = list(range(len(example.docs)))
  while order == sorted(order):
    rng.shuffle(order)
  docs = [example.docs[i] for i in order]
  return Variant(example=changed(example, "shuffled", docs))


def counted(
  example: Example,
  count: int,
  passages: Sequence[Passage],
  *,
  seed: int,
  spare: Sequence[Doc] = (),
  verifier: support.Verifier | None = None,
) -> Variant:
  """The example with `count` passages, answerable if and only if it was.

  Fewer: passages without evidence go first, the last ones before the others,
  then evidence from the end.  So the noise changes and not the label; a gold
  whose only passage goes is no longer supported.  More: distractors come in at
  random places, the record's own further passages before other records'.

  Args:
    example: as it is shown.
    count: passages wanted, 1 or more.
    passages: what distractors are drawn from.
    seed: of the draws.
    spare: further passages of the record that are not shown.
    verifier: of claims, see above.
  """
  name, docs = f"passages{count}", list(example.docs)
  if count <= len(docs):
    first = sorted(
      range(len(docs)), key=lambda i: (not any(docs[i].answers_found), i)
    )
    kept = sorted(first[:count])
    return Variant(example=changed(example, name, [docs[i] for i in kept]))
  rng = draws(seed, name, example)
  wanted = count - len(docs)
  banned = aliases(example)
  own = [
    doc
    for doc in spare
    if not any(doc.answers_found) and not _holds(words(doc), banned)
  ][:wanted]
  more = distractors(
    example, wanted - len(own), passages, rng, verifier, taken=own
  )
  if len(own) + len(more) < wanted:
    return Variant(why="too few other passages hold none of its answers")
  for doc in (*own, *more):
    docs.insert(rng.randrange(len(docs) + 1), doc)
  return Variant(example=changed(example, name, docs))


def without_evidence(
  example: Example,
  passages: Sequence[Passage],
  *,
  seed: int,
  verifier: support.Verifier | None = None,
) -> Variant:
  """Every passage with evidence replaced by a distractor, in its place."""
  evidence = [i for i, d in enumerate(example.docs) if any(d.answers_found)]
  if not evidence:
    return Variant(why="no passage holds an answer")
  rng = draws(seed, "no_evidence", example)
  other = distractors(example, len(evidence), passages, rng, verifier)
  if len(other) < len(evidence):
    return Variant(why="too few other passages hold none of its answers")
  docs = list(example.docs)
  for i, doc in zip(evidence, other, strict=True):
    docs[i] = doc
  return Variant(example=changed(example, "no_evidence", docs))


def distractors(
  example: Example,
  count: int,
  passages: Sequence[Passage],
  rng: random.Random,
  verifier: support.Verifier | None = None,
  taken: Sequence[Doc] = (),
) -> list[Doc]:
  """At most `count` other records' passages that hold none of the golds."""
  asked, banned = text.normalize(example.question), aliases(example)
  shown = {(d.title, d.text) for d in (*example.docs, *taken)}
  out = []
  for passage in rng.sample(passages, min(len(passages), _TRIES)):
    if len(out) == count:
      break
    doc = passage.doc
    if asked in passage.questions or (doc.title, doc.text) in shown:
      continue
    if _holds(passage.words, banned) or _entails(verifier, doc, example):
      continue
    bits = (0,) * len(example.answers)
    out.append(dataclasses.replace(doc, answers_found=bits))
  return out


def _holds(passage: str, banned: Sequence[str]) -> bool:
  return any(f" {alias} " in passage for alias in banned)


def _entails(
  verifier: support.Verifier | None, doc: Doc, example: Example
) -> bool:
  """Whether the verifier finds one of the claims in the passage."""
  if verifier is None or example.task != "claims" or not example.answers:
    return False
  claims = [gold[0] for gold in example.answers]
  return any(verifier([doc.premise] * len(claims), claims))
