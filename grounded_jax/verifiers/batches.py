"""Texts of many lengths in arrays of few shapes: each shape is compiled once.

Widths are 64, 96, 128, 192, 256, ...; the rows of a width are as many as keep
to the tokens of a batch, or a quarter of that, a sixteenth, and so on.
"""

import dataclasses
from collections.abc import Sequence

_NARROWEST = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
  """One array: its shape, and which texts stand in its first rows."""

  rows: int
  width: int
  texts: tuple[int, ...]


def width(length: int) -> int:
  """The narrowest width that holds so many tokens: 2^k or 3 * 2^k."""
  out = _NARROWEST
  while out < length:
    out = out * 3 // 2 if out & (out - 1) == 0 else out * 4 // 3
  return out


def rows(width: int, tokens: int, ways: int) -> list[int]:
  """The numbers of rows that arrays of a width may have, descending.

  Args:
    width: of the arrays.
    tokens: rows * width at most, where one row on each device allows it.
    ways: devices that the rows are cut over; they divide every number.
  """
  out = [max(tokens // width // ways, 1) * ways]
  while out[-1] > ways:
    out.append(-(-out[-1] // (4 * ways)) * ways)
  return out


def plan(lengths: Sequence[int], tokens: int, ways: int = 1) -> list[Planned]:
  """Every text in one array, the longest first.

  Rows that the texts of one width leave over, at most half of an array's
  unless the devices want more, go to the next shorter ones.
  """
  order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
  widths = [width(lengths[i]) for i in order]
  last = {here: place for place, here in enumerate(widths)}
  out, start = [], 0
  while start < len(order):
    here = widths[start]
    same = last[here] + 1 - start
    sizes = rows(here, tokens, ways)
    more = min((n for n in sizes if n >= same), default=sizes[0])
    less = max((n for n in sizes if n <= same), default=more)
    count = more if 2 * same > more else less
    texts = tuple(order[start : start + count])
    out.append(Planned(rows=count, width=here, texts=texts))
    start += count
  return out
