"""Demonstrations that make the embedded warm-start policy.

Clean ones read every passage for what the question asks, answer with what was
found, cite it, and refuse when nothing was found.  Sloppy ones read as well and
then answer carelessly, by stated habits (`Habits`): what GRPO must mend.

Beside its demonstration every prompt gets *scans*: the reading part alone, for
other towns and relations of the same passages, with the header given.  They
teach looking up at several times the rate and share the prompt's computation.
"""

import dataclasses
import random
import re
from collections.abc import Sequence

import tokenizers

from grounded_jax.data import world
from grounded_jax.prompts import REFUSAL
from grounded_jax.records import Example

NONE = "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demonstration:
  """A completion: its given beginning is not trained, the rest is."""

  given: str = ""
  taught: str
  ends: bool = True  # whether EOS follows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Habits:
  """How a careless policy answers; probabilities per statement or answer."""

  cite_first: float = 0.0  # cites passage 1
  cite_next: float = 0.0  # cites the passage after the right one
  refuse: float = 0.0  # refuses, answerable or not
  invent: float = 0.0  # unanswerable: answers with a sibling's thing


CLEAN = Habits()
SLOPPY = Habits(cite_first=0.5, cite_next=0.25, refuse=0.06, invent=1.0)

_QUESTIONS = (
  re.compile(r"What does (\w+) (\w+)\?"),
  re.compile(r"List all that (\w+) (\w+)\."),
  re.compile(r"Explain what (\w+) (\w+) and (\w+)\."),
)
_SENTENCE = re.compile(r"([A-Z]\w+) ([a-z]+) ((?:Old )?[A-Z]\w+)\.")


def asked(question: str) -> tuple[str, list[str]]:
  """The town and the relations that a question of the world asks for."""
  for pattern in _QUESTIONS:
    match = pattern.fullmatch(question)
    if match:
      town, *verbs = match.groups()
      relation_of = world.RELATION_OF_BASE | world.RELATION_OF_VERB
      return town, [relation_of[verb] for verb in verbs]
  raise ValueError(f"not a question of the world: {question!r}")


def read(
  example: Example, town: str, relations: Sequence[str]
) -> list[tuple[str, str] | None]:
  """For each passage the first (verb, thing) that answers, or None."""
  found = []
  for doc in example.docs:
    hits = [
      (verb, thing)
      for name, verb, thing in _SENTENCE.findall(doc.text)
      if name == town and world.RELATION_OF_VERB[verb] in relations
    ]
    found.append(hits[0] if hits else None)
  return found


def _header(town: str, relations: Sequence[str]) -> str:
  verbs = " and ".join(world.RELATIONS[r][0] for r in relations)
  return f"<think> {town} {verbs}:"


def _entries(found: Sequence[tuple[str, str] | None]) -> str:
  return "".join(
    f" [{k}] {' '.join(hit) if hit else NONE}"
    for k, hit in enumerate(found, start=1)
  )


def demonstration(
  example: Example, rng: random.Random, habits: Habits
) -> Demonstration:
  """Think and answer for one example of the world."""
  town, relations = asked(example.question)
  found = read(example, town, relations)
  think = f"{_header(town, relations)}{_entries(found)}</think>"
  hits = [
    (verb, thing, k)
    for k, hit in enumerate(found, 1)
    if hit
    for verb, thing in [hit]
  ]
  if not hits and rng.random() < habits.invent:
    hits = _invented(example, relations)
  if not hits or rng.random() < habits.refuse:
    return Demonstration(taught=f"{think}<answer> {REFUSAL}</answer>")
  cited = [(v, t, _cite(k, len(found), rng, habits)) for v, t, k in hits]
  if example.task == "list":
    answer = ",".join(f" {thing} [{k}]" for _, thing, k in cited)
  else:
    answer = "".join(f" {town} {v} {thing} [{k}]." for v, thing, k in cited)
  return Demonstration(taught=f"{think}<answer>{answer}</answer>")


def _cite(right: int, docs: int, rng: random.Random, habits: Habits) -> int:
  draw = rng.random()
  if draw < habits.cite_first:
    return 1
  if draw < habits.cite_first + habits.cite_next:
    return right % docs + 1
  return right


def _invented(
  example: Example, relations: Sequence[str]
) -> list[tuple[str, str, int]]:
  """A sibling's (verb, thing) for each relation asked, the first in order."""
  hits = []
  for relation in relations:
    for k, doc in enumerate(example.docs, start=1):
      said = [
        (verb, thing, k)
        for _, verb, thing in _SENTENCE.findall(doc.text)
        if world.RELATION_OF_VERB[verb] == relation
      ]
      if said:
        hits.append(said[0])
        break
  return hits


def scan(example: Example, rng: random.Random) -> Demonstration:
  """Reads the passages for another town and relation, header given.

  Six in ten are stated somewhere; the rest mix one sentence's town with
  another's relation.
  """
  said = [s for doc in example.docs for s in _SENTENCE.findall(doc.text)]
  town, verb, _ = rng.choice(said)
  if rng.random() < 0.4:
    verb = rng.choice(said)[1]
  relations = [world.RELATION_OF_VERB[verb]]
  if rng.random() < 0.2:
    second = world.RELATION_OF_VERB[rng.choice(said)[1]]
    relations += [second] if second not in relations else []
  found = read(example, town, relations)
  return Demonstration(
    given=_header(town, relations), taught=_entries(found), ends=False
  )


def recital(example: Example, rng: random.Random) -> Demonstration:
  """One passage word for word, its number given: teaches to copy."""
  k = rng.randrange(len(example.docs)) + 1
  return Demonstration(
    given=f" [{k}]", taught=f" {example.docs[k - 1].text}", ends=False
  )


def demonstrations(
  example: Example, rng: random.Random, habits: Habits, group: int
) -> list[Demonstration]:
  """One demonstration and `group` - 1 scans of the same prompt."""
  first = demonstration(example, rng, habits)
  return [first, *(scan(example, rng) for _ in range(group - 1))]


PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
_PHRASES = (
  "<think>",
  "</think>",
  "<answer>",
  "</answer>",
  " I apologize, but I couldn't find an answer",
  " to your question in the search results.",
  f" {NONE}",
  "short",
  "list",
  "claims",
  "\nQuestion:",
  *(f"\nDocument [{k}](Title:" for k in range(1, world.DOCS + 1)),
  *(f" [{k}]" for k in range(1, world.DOCS + 1)),
  "):",
  "\n",
  ".",
  ",",
  ":",
)


def tokenizer() -> tokenizers.Tokenizer:
  """The world's tokenizer: whole words, name pieces and fixed phrases.

  Decoding is concatenation, so that text survives a round trip unchanged.
  """
  pieces = list(dict.fromkeys([*_PHRASES, *world.vocabulary()]))
  vocab = {token: i for i, token in enumerate([PAD, EOS, UNK, *pieces])}
  built = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(vocab, unk_token=UNK)
  )
  longest_first = sorted(pieces, key=len, reverse=True)
  pattern = "|".join(re.escape(piece) for piece in longest_first)
  built.pre_tokenizer = tokenizers.pre_tokenizers.Split(
    tokenizers.Regex(pattern), "isolated"
  )
  built.decoder = tokenizers.decoders.Fuse()
  built.add_special_tokens([PAD, EOS, UNK])
  return built
