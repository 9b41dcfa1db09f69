"""Train, dev and test: what shares anything with a question stays with it."""

import collections
import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

SPLITS = ("train", "dev", "test")
NEAR = 0.8  # shared words over all words of two questions that are nearly one


def groups(links: Sequence[Iterable[Hashable]]) -> list[int]:
  """A number for each item, the same for items that share a link.

  It is the least of its group; sharing is passed on.
  """
  parent = list(range(len(links)))

  def root(item: int) -> int:
    while parent[item] != item:
      parent[item] = parent[parent[item]]
      item = parent[item]
    return item

  owner: dict[Hashable, int] = {}
  for item, own in enumerate(links):
    for link in own:
      ends = sorted((root(owner.setdefault(link, item)), root(item)))
      parent[ends[1]] = ends[0]
  return [root(item) for item in range(len(links))]


def near(
  worded: Sequence[AbstractSet[str]], least: float = NEAR
) -> Iterator[tuple[int, int]]:
  """Yields each pair whose shared words are `least` of all their words.

  Two such sets share one of their rarest words: so many of each are looked up
  as a set of its size may differ in.
  """
  counts = collections.Counter(word for words in worded for word in words)
  seen = collections.defaultdict(list)
  for item, words in enumerate(worded):
    rare = sorted(words, key=lambda word: (counts[word], word))
    prefix = rare[: len(rare) - int(-(-least * len(rare) // 1)) + 1]
    others = {other for word in prefix for other in seen[word]}
    for other in sorted(others):
      shared = len(words & worded[other])
      if shared >= least * len(words | worded[other]):
        yield other, item
    for word in prefix:
      seen[word].append(item)


def assign(
  group: Sequence[int], names: Sequence[str], shares: Sequence[float], seed: int
) -> list[str]:
  """The split of each item: whole groups, the largest first.

  Each goes where most is missing.

  Args:
    group: of each item.
    names: of each item; of a group's the least decides its turn.
    shares: of SPLITS, in any unit.
    seed: of the turns of groups of one size.
  """
  members = collections.defaultdict(list)
  for item, number in enumerate(group):
    members[number].append(item)
  rank = lambda items: hashlib.sha256(
    f"{seed}\x1f{min(names[i] for i in items)}".encode()
  ).digest()
  missing = [len(group) * share / sum(shares) for share in shares]
  out = [""] * len(group)
  for items in sorted(members.values(), key=lambda x: (-len(x), rank(x))):
    where = missing.index(max(missing))
    missing[where] -= len(items)
    for item in items:
      out[item] = SPLITS[where]
  return out


def shared(
  sides: Mapping[str, Mapping[str, AbstractSet[Hashable]]],
) -> dict[str, dict[str, int]]:
  """For each two splits, how many things of each kind are in both.

  Args:
    sides: for each split its things, by kind.
  """
  names = list(sides)
  return {
    f"{one}/{other}": {
      kind: len(sides[one][kind] & sides[other][kind]) for kind in sides[one]
    }
    for place, one in enumerate(names)
    for other in names[place + 1 :]
  }
