"""The verifier benchmark prints its table, or one sentence."""

import json
import pathlib
import subprocess
import sys

import tiny

ROOT = pathlib.Path(__file__).parents[1]


def run(*flags: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", "benchmarks.verifiers", *flags],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )


def test_the_table_has_every_verifier_and_source(tmp_path):
  rows = [
    {"premise": "Bob owns a car.", "hypothesis": said, "label": label,
     "source": f"made/{label}"}
    for said, label in (("Bob owns a car.", 1), ("Bob owns a boat.", 0))
  ]  # fmt: skip
  pairs = tmp_path / "pairs.jsonl"
  pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
  records = tiny.write_records(tmp_path / "records.jsonl")
  done = run(f"--pairs={pairs}", f"--records={records}")
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert list(found) == ["overlap", "lexical(0.6)"]
  assert found["lexical(0.6)"]["sources"]["made"]["accuracy"] == 1.0
  assert found["overlap"]["sources"]["all"]["accuracy"] == 0.5
  assert "AUC" in done.stderr and "pairs/s" in done.stderr


def test_a_missing_or_broken_file_is_one_sentence(tmp_path):
  broken = tmp_path / "broken.jsonl"
  broken.write_text('{"premise": 1}\n')
  for flag, words in (
    ("--pairs=nowhere.jsonl", "there is no file 'nowhere.jsonl'"),
    (f"--pairs={broken}", "line 1 is no JSON object with premise"),
    ("--records=nowhere.jsonl", "nowhere.jsonl does not exist"),
    ("--limit=3", "Nothing to measure"),
  ):
    done = run(flag)
    assert done.returncode == 2 and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
