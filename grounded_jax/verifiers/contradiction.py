"""Whether a passage that shares a statement's words says otherwise.

Signs that need no order: one denies what the other affirms; an opposite stands
in place of a word.  Signs in a near copy of the statement: a name, number or
word is replaced by another; two names or numbers have changed places.
"""

import collections
from collections.abc import Iterator, Sequence

import Levenshtein

from grounded_jax.verifiers import words
from grounded_jax.verifiers.passages import Passage, Sentence
from grounded_jax.verifiers.words import Word

_LIKE = 0.6  # share of a statement's words in order that make a near copy
_COPY = 0.8  # and that make a copy: here all that differs counts
_TRIED = 3  # places where a copy may stand
_NAMES = 12  # names and numbers of a statement that may have changed places
_MARGIN = 4  # words that a copy may be shifted or longer
_HONORIFIC = frozenset(
  "mr mrs ms dr sir lord lady prof professor president senator captain king"
  " queen prince princess general saint st pope minister".split()
)
_JOINS = frozenset("and or nor".split())


def denies(said: Sentence, shown: Sentence, around: Sequence[Sentence]) -> bool:
  """Whether one denies what the other affirms.

  Args:
    said: the statement.
    shown: the sentence that has most of its words.
    around: that sentence with the one before and the one after it.
  """
  if said.plain & shown.denied - shown.plain - said.denied:
    return True
  if not said.denied:
    return False
  plain = frozenset().union(*(sentence.plain for sentence in around))
  denied = frozenset().union(*(sentence.denied for sentence in around))
  return not denied or bool(said.denied & plain - denied - said.plain)


def opposes(said: Sentence, shown: Sentence) -> bool:
  """Whether an opposite of a word that is missing stands in the sentence."""
  known = words.opposites()
  return any(
    known[key] & shown.plain - said.content
    for key in said.plain - shown.content
    if key in known
  )


def changed(said: Sequence[Word], passage: Passage) -> bool:
  """Whether a near copy of the statement in the passage says otherwise."""
  keys = [word.key for word in said]
  shown, blocks, same = (), [], 0
  for stretch in _nearest(said, passage):
    edits = Levenshtein.editops(keys, [word.key for word in stretch])
    found = Levenshtein.matching_blocks(edits, len(said), len(stretch))
    equal = sum(block.size for block in found)
    if equal > same:
      shown, same = stretch, equal
      blocks = [(block.a, block.b, block.size) for block in found]
  # A title's words may stand for a pronoun.
  size = max(same, sum(key not in passage.title for key in keys))
  if same >= _LIKE * size:
    copy = same >= _COPY * size or same == size - 1
    gaps = list(_gaps(blocks, said, shown))
    if copy and _denied(gaps, blocks, said, shown):
      return True
    if any(_replaced(*gap, said, shown, copy) for gap in gaps):
      return True
  elif not set(keys) <= {word.key for word in shown}:
    return False
  return _exchanged(said, shown)


def _nearest(
  said: Sequence[Word], passage: Passage
) -> Iterator[Sequence[Word]]:
  """Stretches of sentences that have most words at the same distances."""
  votes = collections.Counter(
    spot - place
    for place, word in enumerate(said)
    for spot in passage.spots.get(word.key, ())
  )
  for _ in range(_TRIED):
    if not votes:
      return
    # A name of another length shifts what follows by a word or two.
    start = max(votes, key=lambda d: 2 * votes[d] + votes[d + 1] + votes[d - 1])
    middle = min(max(0, start + len(said) // 2), len(passage.stream) - 1)
    first, end = passage.bounds[middle]
    low, high = start - _MARGIN, start + len(said) + _MARGIN
    yield passage.stream[max(first, low) : min(end, high)]
    for shift in (-1, 0, 1):
      votes.pop(start + shift, None)


def _gaps(
  blocks: Sequence[tuple[int, int, int]],
  said: Sequence[Word],
  shown: Sequence[Word],
) -> Iterator[tuple[Sequence[Word], Sequence[Word]]]:
  """What stands between equal words in both; before and after them, as much."""
  i, k = 0, 0
  for n, (j, l, size) in enumerate(blocks):
    ours, theirs = said[i:j], shown[k:l]
    if n == 0:
      theirs = theirs[-len(ours) - 1 :]
    if j == len(said):
      theirs = theirs[: len(ours) + 1]
    if ours:
      yield ours, theirs
    i, k = j + size, l + size


def _denied(
  gaps: Sequence[tuple[Sequence[Word], Sequence[Word]]],
  blocks: Sequence[tuple[int, int, int]],
  said: Sequence[Word],
  shown: Sequence[Word],
) -> bool:
  """Whether a copy denies an equal word, or a word of its own."""
  return any(
    word.denied for ours, theirs in gaps for word in (*ours, *theirs)
  ) or any(
    said[i + n].denied != shown[k + n].denied
    for i, k, size in blocks
    for n in range(size)
  )


def _replaced(
  ours: Sequence[Word],
  theirs: Sequence[Word],
  said: Sequence[Word],
  shown: Sequence[Word],
  copy: bool,
) -> bool:
  """Whether a name, number or opposite stands for another, or word for word.

  In a copy what is replaced counts though it stands elsewhere in the other.
  """
  mine = _only(ours, theirs if copy else shown)
  other = _only(theirs, ours if copy else said)
  for valued in (_named, _number):
    if any(map(valued, mine)) and any(map(valued, other)):
      return True
  opposite = {o for w in mine for o in words.opposites().get(w.key, ())}
  if any(word.key in opposite for word in other):
    return True
  content = [sum(w.kind != "stop" for w in side) for side in (mine, other)]
  return copy and content[0] == 1 and content[1] in (1, 2)


def _only(found: Sequence[Word], other: Sequence[Word]) -> list[Word]:
  keys = {word.key for word in other}
  titled = any(word.exact in _HONORIFIC for word in other)
  return [
    word
    for word in found
    if word.key not in keys and not (titled and word.exact in _HONORIFIC)
  ]


def _named(word: Word) -> bool:
  return word.capital and (not word.first or word.kind == "word")


def _number(word: Word) -> bool:
  return word.kind == "number"


def _exchanged(said: Sequence[Word], shown: Sequence[Word]) -> bool:
  """Whether two names or numbers stand in each other's place.

  "A beat B" and "B beat A": each stands behind what the other did.  "A beat B"
  and "A was beaten by B": only one of the two has "by" before B.
  """
  ours, theirs = _valued(said), _valued(shown)
  shared = [key for key in ours if key in theirs][:_NAMES]
  for n, b in enumerate(shared):
    mine_b, other_b = ours[b][1], theirs[b][1]
    for a in shared[:n]:
      mine_a, other_a = ours[a][1], theirs[a][1]
      if theirs[a][0] < theirs[b][0]:
        if (other_b[-1], "by") == mine_b or (mine_b[-1], "by") == other_b:
          return True
      elif (
        mine_a[-1] == other_b[-1] != mine_b[-1] == other_a[-1]
        and mine_b[-1] not in _JOINS
        and other_b[-1] not in _JOINS
      ):
        return True
  return False


def _valued(
  sentence: Sequence[Word],
) -> dict[str, tuple[int, tuple[str, str]]]:
  """Where each name or number stands that stands once.

  Returns:
    For each its place and the two keys before it and the names it follows.
  """
  out, count = {}, collections.Counter(word.key for word in sentence)
  start, before = 0, False
  for i, word in enumerate(sentence):
    value = _named(word) or _number(word)
    if value and not before:
      start = i
    before = value
    if value and count[word.key] == 1:
      run = [w.key for w in sentence[max(0, start - 2) : start]]
      out[word.key] = (i, ("", "", *run)[-2:])
  return out
