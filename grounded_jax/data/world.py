"""The embedded world: towns, what is said of them, and questions with passages.

A world is a table of facts (town, relation, things) drawn from its seed.  A
question asks for one or two relations of one town, by another word than the
passages use.  Each of its five passages
holds three sentences; the evidence stands in some of them, the others talk of
the same town's other relations or of sibling towns (names that begin alike)
under the same relation.  Questions come in pairs: in the unanswerable one every
evidence sentence is replaced by a sibling's, and nothing else changes.

Names are a start and an end.  Which pairs of pieces belong to train, dev and
test is fixed for all worlds, so that no test name occurs in any training text
while every piece of it does.
"""

import dataclasses
import functools
import random
import re
from collections.abc import Sequence

from grounded_jax.records import Doc, Example

STARTS = (
  "Bar Bel Bor Cal Cor Dal Dor Dun Fal Fen Gal Gar Gor Hal Har Hol Jor Kal Kar"
  " Kel Kor Lan Lor Mar Mel Mor Nar Nor Pel Por Ral Sar Sel Sor Tal Tar Tor Val"
  " Vel Zar"
).split()
TOWN_ENDS = (
  "avik bury dale dorf fell gard ham heim holm hurst ling mark mere mont mouth"
  " nia ridge stad ster thorp ton vale wick worth"
).split()
THING_ENDS = (
  "abex adin akor amir anth aspo edon elux emzo epha iban idor ikos imra ivex"
  " izan obek odra okun ompa orix ovan uzim ygra"
).split()
ALIAS = "Old"  # "Old Kelorix" is another name of Kelorix

# A relation is the verb that passages tell it with.  Questions ask for it by a
# noun, so that they share no word with their evidence but the town's name.
NOUNS = {
  "adjoins": "neighbour",
  "bakes": "dish",
  "borders": "frontier",
  "breeds": "herd",
  "brews": "drink",
  "celebrates": "feast",
  "cooks": "meal",
  "exports": "cargo",
  "farms": "crop",
  "follows": "leader",
  "grows": "harvest",
  "honours": "hero",
  "knits": "garment",
  "mines": "ore",
  "obeys": "ruler",
  "quarries": "stone",
  "rears": "flock",
  "ships": "freight",
  "speaks": "tongue",
  "teaches": "lesson",
  "trades": "ware",
  "trains": "guard",
  "weaves": "cloth",
  "worships": "god",
}
RELATIONS = tuple(NOUNS)
VERBS = {noun: verb for verb, noun in NOUNS.items()}

DOCS = 5
SENTENCES = 3  # per passage
_NEAR = 2  # siblings that a question's passages talk of
SPLITS = ("train", "dev", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fact:
  """One town, one relation, one thing (its plain name)."""

  town: str
  relation: str
  thing: str


def split_of(start: int, end: int) -> str:
  """The split a name belongs to, from the indices of its two pieces."""
  bucket = (start + end) % 8  # of every start 3 names each for dev and test
  return "test" if bucket == 0 else "dev" if bucket == 4 else "train"


@functools.cache
def names(kind: str, split: str) -> tuple[str, ...]:
  """Every name of a split: of its "towns" or of its "things"."""
  ends = TOWN_ENDS if kind == "towns" else THING_ENDS
  return tuple(
    start + end
    for i, start in enumerate(STARTS)
    for j, end in enumerate(ends)
    if split_of(i, j) == split
  )


@functools.cache
def siblings(town: str, split: str) -> tuple[str, ...]:
  """The other towns whose names begin alike."""
  start = next(s for s in STARTS if town.startswith(s))
  return tuple(
    other
    for other in names("towns", split)
    if other != town and other.startswith(start)
  )


class World:
  """The facts of one seed and split, and the questions about them."""

  def __init__(self, seed: int | str, split: str = "train"):
    self.split = split
    self.seed = seed
    self.towns = names("towns", split)
    self.things = names("things", split)

  def facts(self, town: str, relation: str) -> list[Fact]:
    """What this world holds of a town: one, two or three things."""
    rng = random.Random(f"{self.seed}/{self.split}/{town}/{relation}")
    count = rng.choice((1, 1, 2, 3))
    things = rng.sample(self.things, count)
    return [Fact(town=town, relation=relation, thing=t) for t in things]

  def examples(self, n: int, start: int = 0) -> list[Example]:
    """`n` examples: pairs (answerable, unanswerable), tasks in turn."""
    pairs = (n + 1) // 2
    out = []
    for i in range(start, start + pairs):
      out.extend(self.pair(i))
    return out[:n]

  def pair(self, index: int) -> tuple[Example, Example]:
    """The answerable and the unanswerable example of one index."""
    rng = random.Random(f"{self.seed}/{self.split}/question/{index}")
    task = ("short", "list", "claims")[index % 3]
    town, asked = self._ask(rng, task)
    near = list(siblings(town, self.split))
    rng.shuffle(near)
    gold = self._gold(rng, task, town, asked)
    # Cyclic positions: over five consecutive questions of a task each place
    # holds evidence equally often.
    offsets = [0, *sorted(rng.sample(range(1, DOCS), len(gold) - 1))]
    places = [(o + index // 3) % DOCS for o in offsets]
    plan = self._plan(rng, town, near, asked, places)
    evidence = [self._state(rng, fact) for fact in gold]
    swapped = []
    for fact in gold:
      other = rng.choice(near[:_NEAR])
      swap = rng.choice(self.facts(other, fact.relation))
      swapped.append(self._state(rng, swap))
    make = lambda suffix, sentences: self._example(
      f"world-{self.seed}-{self.split}-{index}-{suffix}",
      *(task, town, asked, gold),
      *(plan, dict(zip(places, sentences, strict=True))),
    )
    return make("a", evidence), make("u", swapped)

  def _ask(self, rng: random.Random, task: str) -> tuple[str, list[str]]:
    """A town and the relations asked: two for claims, one otherwise."""
    wanted = {"short": (1, 2), "list": (2, 3), "claims": (1, 2, 3)}[task]
    while True:
      town = rng.choice(self.towns)
      fit = [r for r in RELATIONS if len(self.facts(town, r)) in wanted]
      asked = 2 if task == "claims" else 1
      if len(fit) >= asked:
        return town, rng.sample(fit, asked)

  def _gold(self, rng, task, town, asked) -> list[Fact]:
    if task == "claims":
      return [rng.choice(self.facts(town, relation)) for relation in asked]
    return self.facts(town, asked[0])

  def _plan(self, rng, town, near, asked, places) -> list[tuple[str, list]]:
    """For each passage its title and sentences, None where evidence goes.

    Every passage of the town holds only relations that were not asked; every
    sibling's passage holds an asked relation of that sibling.
    """
    free = [r for r in RELATIONS if r not in asked]
    plan = []
    for place in range(DOCS):
      about = town if place in places or rng.random() < 0.25 else None
      about = about or rng.choice(near[:_NEAR])
      relations = rng.sample(free, SENTENCES)
      owners = [about, about, rng.choice([*near[:_NEAR], about])]
      sentences = [
        self._state(rng, rng.choice(self.facts(owner, relation)))
        for owner, relation in zip(owners, relations, strict=True)
      ]
      if about != town or rng.random() < 0.3:
        other = about if about != town else rng.choice(near[:_NEAR])
        fact = rng.choice(self.facts(other, rng.choice(asked)))
        sentences[-1] = self._state(rng, fact)
      if place in places:
        sentences[0] = None
      rng.shuffle(sentences)
      plan.append((about, sentences))
    return plan

  def _state(self, rng: random.Random, fact: Fact) -> str:
    alias = f"{ALIAS} " if rng.random() < 0.15 else ""
    return f"{fact.town} {fact.relation} {alias}{fact.thing}."

  def _example(self, id_, task, town, asked, gold, plan, evidence) -> Example:
    docs = []
    for place, (title, sentences) in enumerate(plan):
      text = " ".join(s or evidence[place] for s in sentences)
      stated = facts_of(text)
      found = tuple(int(fact in stated) for fact in gold)
      docs.append(Doc(title=title, text=text, answers_found=found))
    return Example(
      id=id_,
      task=task,
      question=question(task, town, asked),
      docs=tuple(docs),
      answers=tuple(_aliases(task, fact) for fact in gold),
      answerable=any(any(doc.answers_found) for doc in docs),
      dataset="world",
    )


def question(task: str, town: str, asked: Sequence[str]) -> str:
  """The question's words: each relation asked stands as its noun."""
  nouns = " and the ".join(NOUNS[relation] for relation in asked)
  if task == "claims":
    return f"Explain the {nouns} of {town}."
  if task == "list":
    return f"List the {nouns} of {town}."
  return f"What is the {nouns} of {town}?"


def _aliases(task: str, fact: Fact) -> tuple[str, ...]:
  if task == "claims":
    return (f"{fact.town} {fact.relation} {fact.thing}.",)
  return fact.thing, f"{ALIAS} {fact.thing}"


_FACT = re.compile(
  rf"([A-Z]\w+) ({'|'.join(RELATIONS)}) (?:{ALIAS} )?([A-Z]\w+)\.?"
)
_LIST = re.compile(
  rf"List the ({'|'.join(VERBS)}) of ([A-Z]\w+)\. (?:{ALIAS} )?([A-Z]\w+)"
)


def facts_of(text: str) -> set[Fact]:
  """Every fact that a text states in the world's sentences."""
  return {_fact(*match) for match in _FACT.findall(text)}


def _fact(town: str, relation: str, thing: str) -> Fact:
  return Fact(town=town, relation=relation, thing=thing)


class Oracle:
  """Knows which text states which fact: the judge of the headline scores.

  A hypothesis is entailed when it consists of the world's sentences (or of a
  list question and one item), at least one, and the premise states them all.
  """

  name = "oracle"

  def __call__(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[bool]:
    return [
      self._entails(premise, hypothesis)
      for premise, hypothesis in zip(premises, hypotheses, strict=True)
    ]

  def _entails(self, premise: str, hypothesis: str) -> bool:
    hypothesis = hypothesis.strip()
    item = _LIST.fullmatch(hypothesis.rstrip("."))
    if item:
      noun, town, thing = item.groups()
      return _fact(town, VERBS[noun], thing) in facts_of(premise)
    said = facts_of(hypothesis)
    rest = _FACT.sub("", hypothesis).strip()
    return bool(said) and not rest and said <= facts_of(premise)


def examples(seed: int, split: str, n: int) -> list[Example]:
  """`n` examples of a world's split: answerable and not in pairs."""
  return World(seed, split).examples(n)


def vocabulary() -> list[str]:
  """Every token of the world's own tokenizer that occurs in its texts.

  The end of a town's name and the verb after it are one token: the pair that
  a lookup has to find.
  """
  starts = [f" {start}" for start in STARTS]
  told = [f"{end} {verb}" for end in TOWN_ENDS for verb in RELATIONS]
  nouns = [f" {noun}" for noun in VERBS]
  words = [" What is the", " List the", " Explain the", " and the", " of", "?"]
  names_ = [*starts, *TOWN_ENDS, *THING_ENDS, f" {ALIAS}"]
  return [*names_, *told, *nouns, *words]
