"""Verdicts on disk: they outlast processes, crashes and rivals."""

import random
import sqlite3
import subprocess
import sys

import pytest

from grounded_jax import config, verifiers
from grounded_jax.records import UserError
from grounded_jax.verifiers import cache, disk

# Two of these at once, on one new folder: writer n adds its own keys, and 20
# that the other adds too.
WRITER = """
import sys
from grounded_jax.verifiers import disk
folder, first = sys.argv[1], int(sys.argv[2])
kept = disk.Disk(folder)
for batch in range(20):
  own = range(first + 10 * batch, first + 10 * batch + 10)
  kept.add({b"%016d" % k: k % 3 == 0 for k in [batch, *own]})
  assert len(kept.find([b"%016d" % k for k in own])) == 10
"""
# Killed while it adds: after the second of three verdicts.
KILLED = """
import os, sys
from grounded_jax.verifiers import disk

class Deadly(dict):
  def items(self):
    yield b"half", True
    yield b"done", True
    os._exit(9)

disk.Disk(sys.argv[1]).add(Deadly())
"""


class Longer:
  """Says yes when the premise is the longer; counts the pairs it was asked."""

  def __init__(self, name="longer"):
    self.name = name
    self.asked = 0

  def __call__(self, premises, hypotheses):
    self.asked += len(premises)
    return [len(p) > len(h) for p, h in zip(premises, hypotheses, strict=True)]


def cached(folder, inner, size=100):
  """What a process that has just begun asks."""
  return cache.Cached(inner, size, disk.Disk(str(folder)))


def test_verdicts_survive_a_restart(tmp_path):
  first, second = Longer(), Longer()
  pairs = (["aa", "b"], ["b", "bb"])
  assert cached(tmp_path / "new" / "folder", first)(*pairs) == [True, False]
  again = cached(tmp_path / "new" / "folder", second)
  assert again(*pairs) == [True, False]
  assert (first.asked, second.asked) == (2, 0)
  assert (again.hits, again.read, again.misses) == (0, 2, 0)
  again(*pairs)
  assert (again.hits, again.read, again.misses) == (2, 2, 0)


def test_two_verifiers_do_not_mix(tmp_path):
  class Shorter(Longer):
    def __call__(self, premises, hypotheses):
      return [not said for said in super().__call__(premises, hypotheses)]

  for _ in range(2):
    assert cached(tmp_path, Longer("one"))(["aa"], ["b"]) == [True]
    assert cached(tmp_path, Shorter("other"))(["aa"], ["b"]) == [False]


def test_a_pair_repeated_in_a_call_is_asked_and_kept_once(tmp_path):
  inner = Longer()
  one = cached(tmp_path, inner)
  assert one(["aa", "aa", "b"], ["b", "b", "b"]) == [True, True, False]
  assert (inner.asked, one.hits, one.misses) == (2, 1, 2)
  with sqlite3.connect(tmp_path / "verdicts.sqlite3") as database:
    count = database.execute("SELECT count(*) FROM verdicts").fetchone()
  database.close()
  assert count == (2,)


def test_answers_are_those_without_a_disk(tmp_path):
  """Whatever was asked before, and with no memory at all."""
  rng = random.Random(0)
  word = lambda: "".join(rng.choices("ab\ud800é\n", k=rng.randint(0, 4)))
  plain = Longer()
  for size in (0, 3, 1000):
    kept = cached(tmp_path, Longer(), size)
    for _ in range(20):
      asked = [word() for _ in range(30)], [word() for _ in range(30)]
      assert kept(*asked) == plain(*asked)


def test_the_oldest_verdicts_make_room(tmp_path):
  kept = disk.Disk(str(tmp_path), limit=3)
  kept.add({b"1": True, b"2": False})
  kept.add({b"3": True, b"4": False, b"2": False})
  assert kept.find([b"1", b"2", b"3", b"4"]) == {
    b"2": False,
    b"3": True,
    b"4": False,
  }


def test_more_keys_than_a_query_holds_are_found(tmp_path):
  kept = disk.Disk(str(tmp_path))
  verdicts = {b"%d" % k: k % 2 == 0 for k in range(2345)}
  kept.add(verdicts)
  assert kept.find([*verdicts, b"absent"]) == verdicts


def test_two_processes_write_at_once_and_nothing_is_lost(tmp_path):
  command = [sys.executable, "-c", WRITER, str(tmp_path / "shared")]
  writers = [
    subprocess.Popen([*command, first], stderr=subprocess.PIPE, text=True)
    for first in ("1000", "2000")
  ]
  assert [w.communicate(timeout=120)[1] for w in writers] == ["", ""]
  assert [w.returncode for w in writers] == [0, 0]
  numbers = [*range(20), *range(1000, 1200), *range(2000, 2200)]
  found = disk.Disk(str(tmp_path / "shared")).find(
    [b"%016d" % k for k in numbers]
  )
  assert found == {b"%016d" % k: k % 3 == 0 for k in numbers}


def test_a_writer_that_is_killed_leaves_what_was_there(tmp_path):
  disk.Disk(str(tmp_path)).add({b"before": True})
  command = [sys.executable, "-c", KILLED, str(tmp_path)]
  assert subprocess.run(command, timeout=120).returncode == 9
  kept = disk.Disk(str(tmp_path))
  assert kept.find([b"before", b"half", b"done"]) == {b"before": True}
  kept.add({b"half": False})
  assert kept.find([b"half"]) == {b"half": False}


def damaged(folder):
  (folder / "verdicts.sqlite3").write_bytes(b"no database\n" * 1000)
  return folder


def of_another_program(folder):
  with sqlite3.connect(folder / "verdicts.sqlite3") as database:
    database.execute("CREATE TABLE verdicts (something TEXT)")
  database.close()
  return folder


def a_file(folder):
  (folder / "taken").write_text("not a folder")
  return folder / "taken"


@pytest.mark.parametrize("spoil", [damaged, of_another_program, a_file])
def test_what_cannot_be_opened_is_said_in_a_sentence(tmp_path, spoil):
  with pytest.raises(UserError, match="verifier.disk: .* cannot be used") as e:
    disk.Disk(str(spoil(tmp_path)))
  assert str(e.value).count("\n") == 0


def test_what_fails_later_is_said_once_and_done_without(tmp_path, capsys):
  one = cached(tmp_path, Longer(), size=0)
  one(["aa"], ["b"])
  damaged(tmp_path)
  for _ in range(3):
    assert one(["aa", "b"], ["b", "bb"]) == [True, False]
  told = capsys.readouterr().err
  assert told.count("going on without it") == 1


def test_a_rule_keeps_nothing_on_disk(tmp_path):
  for kind in set(config.VERIFIERS) - set(config.MODEL_VERIFIERS):
    with pytest.raises(UserError, match="disk=.* is for verifiers that are"):
      config.Verifier(kind=kind, disk=str(tmp_path))


def test_the_factory_opens_the_disk_that_a_config_names(tmp_path, monkeypatch):
  monkeypatch.setattr(verifiers, "_model", lambda cfg: Longer())
  cfg = config.Verifier(kind="t5", path="DIR", disk=str(tmp_path))
  pair = ["longer"], ["short"]
  assert verifiers.make(cfg)(*pair) == [True]
  again = verifiers.make(cfg)
  assert again(*pair) == [True]
  assert again.read == 1
