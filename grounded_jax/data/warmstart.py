"""Demonstrations that make the embedded warm-start policy.

Clean ones read every passage for what the question asks, answer with what was
found, cite it, and refuse when nothing was found.  Sloppy ones read as well and
then answer carelessly, by stated habits (`Habits`): what GRPO must mend.

Beside its demonstration every prompt gets *drills* (looking up other towns and
relations of the same passages) and *recitals* (a passage word for word).  They
teach reading at several times the rate and share the prompt's computation.
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
  """A completion in pieces, each trained or given."""

  pieces: tuple[tuple[str, bool], ...]  # (text, whether it is trained)
  ends: bool = True  # whether EOS follows

  @property
  def text(self) -> str:
    return "".join(text for text, _ in self.pieces)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Habits:
  """How a careless policy answers; probabilities per statement or answer."""

  cite_first: float = 0.0  # cites passage 1
  cite_next: float = 0.0  # cites the passage after the right one
  refuse: float = 0.0  # refuses, answerable or not
  invent: float = 0.0  # unanswerable: answers with a sibling's thing


CLEAN = Habits()
SLOPPY = Habits(cite_first=0.5, cite_next=0.25, refuse=0.06, invent=1.0)

_QUESTION = re.compile(
  r"(?:What is|List|Explain) the (\w+)(?: and the (\w+))? of (\w+)[?.]"
)
_SENTENCE = re.compile(r"([A-Z]\w+) ([a-z]+) ((?:Old )?[A-Z]\w+)\.")


def asked(question: str) -> tuple[str, list[str]]:
  """The town and the relations that a question of the world asks for."""
  match = _QUESTION.fullmatch(question)
  if not match:
    raise ValueError(f"not a question of the world: {question!r}")
  *nouns, town = match.groups()
  return town, [world.VERBS[noun] for noun in nouns if noun]


Hit = tuple[str, str, int]  # relation, thing, passage number


def read(example: Example, town: str, relation: str) -> list[Hit]:
  """What the passages say of a town under a relation, once a passage."""
  hits = []
  for k, doc in enumerate(example.docs, start=1):
    said = [
      (verb, thing, k)
      for name, verb, thing in _SENTENCE.findall(doc.text)
      if name == town and verb == relation
    ]
    hits.extend(said[:1])
  return hits


def _statement(town: str, hit: Hit) -> str:
  relation, thing, k = hit
  return f" {town} {relation} {thing} [{k}]."


def _finding(hits: Sequence[Hit]) -> str:
  """What a thought says after a town and a relation."""
  things = ",".join(f" {thing} [{k}]" for _, thing, k in hits)
  return f"{things or f' {NONE}'}."


def demonstration(
  example: Example, rng: random.Random, habits: Habits
) -> Demonstration:
  """Think and answer for one example of the world.

  The thought says for each relation what the passages hold, and where.
  """
  town, relations = asked(example.question)
  thought, hits = "", []
  for relation in relations:
    found = read(example, town, relation)
    thought += f" {town} {relation}{_finding(found)}"
    hits += found
  if not hits and rng.random() < habits.invent:
    hits = _invented(example, relations)
  if not hits or rng.random() < habits.refuse:
    answer = f" {REFUSAL}"
  else:
    cited = [
      (r, t, _cite(k, len(example.docs), rng, habits)) for r, t, k in hits
    ]
    if example.task == "list":
      answer = ",".join(f" {thing} [{k}]" for _, thing, k in cited)
    else:
      answer = "".join(_statement(town, hit) for hit in cited)
  text = f"<think>{thought}</think><answer>{answer}</answer>"
  return Demonstration(pieces=((text, True),))


def _cite(right: int, docs: int, rng: random.Random, habits: Habits) -> int:
  draw = rng.random()
  if draw < habits.cite_first:
    return 1
  if draw < habits.cite_first + habits.cite_next:
    return right % docs + 1
  return right


def _invented(example: Example, relations: Sequence[str]) -> list[Hit]:
  """What a sibling is said to do, for each relation, the first in order."""
  hits = []
  for relation in relations:
    said = [
      (verb, thing, k)
      for k, doc in enumerate(example.docs, start=1)
      for _, verb, thing in _SENTENCE.findall(doc.text)
      if verb == relation
    ]
    hits.extend(said[:1])
  return hits


def drill(
  example: Example, rng: random.Random, queries: int, mixed: float
) -> Demonstration:
  """Looks up several towns and relations, one after another.

  Each is given as a sentence begins, or asked for as in a question.

  Relations that are told of several towns are preferred: where the relation
  alone picks the sentence, matching the town is not learned.  A share `mixed`
  of the queries takes any town of the passages, so that some are not stated.
  """
  said = [s for doc in example.docs for s in _SENTENCE.findall(doc.text)]
  towns = {}
  for town, relation, _ in said:
    towns.setdefault(relation, {})[town] = None
  shared = [r for r, of in towns.items() if len(of) > 1] or list(towns)
  everyone = list(dict.fromkeys(town for town, _, _ in said))
  pieces = [("<think>", False)]
  for _ in range(queries):
    relation = rng.choice(shared if rng.random() < 0.9 else list(towns))
    town = rng.choice(list(towns[relation]))
    if rng.random() < mixed:
      town = rng.choice(everyone)
    query, named = f" {town} {relation}", rng.random() < 0.5
    if named:
      pieces.append((f" {world.NOUNS[relation]} of {town}:", False))
    finding = _finding(read(example, town, relation))
    pieces += [(query, named), (finding, True)]
  return Demonstration(pieces=tuple(pieces), ends=False)


def recital(example: Example, rng: random.Random) -> Demonstration:
  """One passage word for word, its number given: teaches to copy."""
  k = rng.randrange(len(example.docs)) + 1
  text = f" {example.docs[k - 1].text}"
  return Demonstration(pieces=((f" [{k}]", False), (text, True)), ends=False)


PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
_PHRASES = (
  "<think>",
  "</think>",
  "<answer>",
  "</answer>",
  f" {REFUSAL}",
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
