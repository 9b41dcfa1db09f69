"""Demonstrations from the annotated passages: what a good answer looks like.

The answer is made of evidence: for a gold answer the sentence that holds it,
for a list the answers, for claims the claims, each with its passage's number.
The think part says which passage tells what.  An unanswerable question is
refused.  Where no sentence can be found there is no demonstration.
"""

import re
from collections.abc import Sequence

from grounded_jax import text
from grounded_jax.records import Doc, Example

# An evidence sentence with more words is cut to those around the answer.
_LONGEST = 40
_GOLDS = 5  # gold answers told at most
# How a sentence ends, and what then closes a quotation or a bracket.
_FINAL = re.compile(r"[.?!,;:\s]+([\"')”’»]*)$")
_CLOSED = r"\1"

# The passage (from 0), what in it answers, and the sentence that says so.
Evidence = tuple[int, str, str]

_FOUND = (
  "Document [{k}], {title}, says: {said}.",
  "{title} (document [{k}]) gives the answer: {said}.",
  "The answer is in document [{k}] about {title}: {said}.",
)
_NOTHING = (
  "The documents are about {titles}. None of them answers the question.",
  "I looked for the answer in the documents about {titles}. They do not say.",
  "The documents tell of {titles}, but not what is asked.",
)


def make(
  example: Example, group: int, *, tags: bool, refusal: str
) -> list[str]:
  """`group` completions that differ in their think part; [] if none is found.

  Args:
    example: its docs carry `answers_found`.
    group: how many; without tags they are alike.
    tags: write <think>...</think><answer>...</answer>, else the answer alone.
    refusal: the sentence that the prompt asks for.
  """
  found = evidence(example)
  if example.answerable and not found:
    return []
  found = found if example.answerable else []
  return [
    write(example, found, i, tags=tags, refusal=refusal) for i in range(group)
  ]


def write(
  example: Example,
  found: list[Evidence],
  variant: int,
  *,
  tags: bool,
  refusal: str,
) -> str:
  """The completion that tells what was found, or refuses if it is nothing.

  Args:
    example: whose passages are named.
    found: as `evidence` has it.
    variant: of the think part's words.
    tags: as in `make`; so is `refusal`.
    refusal: the sentence that the prompt asks for.
  """
  answer = _answer(example, found) if found else refusal
  if not tags:
    return answer
  think = _think(example, found, variant)
  return f"<think>{think}</think><answer>{answer}</answer>"


def evidence(example: Example) -> list[Evidence]:
  """What answers, one for each gold answer.

  The passage is the first that holds the gold answer.  Golds that no passage
  shown holds, or whose words do not stand in the passage, are left out.
  """
  out = []
  for gold, aliases in enumerate(example.answers):
    for place, doc in enumerate(example.docs):
      if not (doc.answers_found and doc.answers_found[gold]):
        continue
      if example.task == "claims":
        out.append((place, aliases[0], aliases[0]))
        break
      if example.task == "list":  # a comma would make two items of one
        aliases = [alias for alias in aliases if "," not in alias]
      held = _sentence(example.question, aliases, doc)
      if held:
        out.append((place, *held))
        break
  return out[:_GOLDS]


def _sentence(
  question: str, aliases: Sequence[str], doc: Doc
) -> tuple[str, str] | None:
  """(alias, sentence): the one that shares most words with the question."""
  asked = set(text.normalize(question).split())
  best, most = None, -1
  for sentence in text.punkt(doc.text):
    normal = f" {text.normalize(sentence)} "
    held = [
      alias
      for alias in aliases
      if (words := text.normalize(alias)) and f" {words} " in normal
    ]
    shared = len(asked & set(normal.split()))
    if held and shared > most:
      alias = max(held, key=len)
      best, most = (alias, _window(sentence, alias)), shared
  return best


def _window(sentence: str, alias: str) -> str:
  """At most `_LONGEST` words of the sentence, the alias in their middle."""
  words = sentence.split()
  if len(words) <= _LONGEST:
    return " ".join(words)
  wanted = text.normalize(alias)
  width = len(alias.split())
  # The shortest start such that the alias stands in the first words before it.
  end = next(
    i
    for i in range(1, len(words) + 1)
    if f" {wanted} " in f" {text.normalize(' '.join(words[:i]))} "
  )
  start = max(0, min(end - width - _LONGEST // 2, len(words) - _LONGEST))
  return " ".join(words[start : start + _LONGEST])


def _statement(words: str, place: int) -> str:
  """A sentence with its citation before the full stop.

  Brackets of the source would read as citations, and its own end as that of a
  statement without one.
  """
  words = words.replace("[", "(").replace("]", ")").strip()
  return f"{_FINAL.sub(_CLOSED, words)} [{place + 1}]."


def _answer(example: Example, found: list[Evidence]) -> str:
  if example.task == "list":
    items = [f"{answer} [{place + 1}]" for place, answer, _ in found]
    return ", ".join(items) + "."
  told = dict.fromkeys((place, sentence) for place, _, sentence in found)
  return " ".join(_statement(sentence, place) for place, sentence in told)


def _think(example: Example, found: list[Evidence], variant: int) -> str:
  if not found:
    titles = list(dict.fromkeys(doc.title for doc in example.docs))
    return _NOTHING[variant % len(_NOTHING)].format(titles=_and(titles))
  template = _FOUND[variant % len(_FOUND)]
  by_place = {}
  for place, answer, _ in found:
    by_place.setdefault(place, []).append(answer.rstrip("."))
  return " ".join(
    template.format(k=place + 1, title=example.docs[place].title, said=_and(a))
    for place, a in by_place.items()
  )


def _and(names: Sequence[str]) -> str:
  if len(names) == 1:
    return names[0]
  return f"{', '.join(names[:-1])} and {names[-1]}"
