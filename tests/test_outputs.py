import json

import pytest

from grounded_jax import outputs
from grounded_jax.records import UserError

GOOD = {
  "question": "Q?",
  "dataset": "nq",
  "answers": [["a", "b"]],
  "docs": [{"title": "T", "text": "x", "answers_found": [1]}],
  "output": "a [1].",
}


@pytest.mark.parametrize(
  "content",
  [
    json.dumps(GOOD) + "\n\n" + json.dumps(GOOD) + "\n",
    json.dumps([GOOD, GOOD]),
    json.dumps([GOOD, GOOD], indent=2),
    json.dumps({"data": [GOOD, GOOD], "config": {}}),
    json.dumps({"data": [GOOD, GOOD]}, indent=2),
    "\ufeff" + json.dumps([GOOD, GOOD]),
  ],
)
def test_every_form_of_file_gives_the_same_records(tmp_path, content):
  path = tmp_path / "outputs.json"
  path.write_text(content, "utf-8")
  assert list(outputs.read(path)) == [{**GOOD, "task": "short"}] * 2


def changed(**fields):
  return {k: v for k, v in {**GOOD, **fields}.items() if v is not None}


@pytest.mark.parametrize(
  ("bad", "words"),
  [
    (changed(output=None), "line 2 has no 'output'"),
    (changed(docs=[]), "line 2 has no docs"),
    (changed(docs="x"), "line 2: 'docs' must be a list, not str"),
    (changed(answers=["a"]), "line 2: answer 1 must be a list"),
    (changed(docs=[{"title": "T"}]), "line 2, doc 1 has no 'text'"),
    (
      changed(docs=[{"title": "T", "text": "x", "answers_found": [1, 0]}]),
      "line 2, doc 1: answers_found must hold one 0 or 1",
    ),
    (changed(dataset="x"), "line 2: the task is 'not stated'; it must be one"),
    (changed(raw_output=3), "line 2: 'raw_output' must be text, not int"),
    ([1], "line 2 is not an object"),
  ],
)
def test_a_bad_record_is_named_by_file_and_line(tmp_path, bad, words):
  path = tmp_path / "bad.jsonl"
  path.write_text(json.dumps(GOOD) + "\n" + json.dumps(bad) + "\n")
  with pytest.raises(UserError, match="bad.jsonl " + words):
    list(outputs.read(path))


@pytest.mark.parametrize(
  ("content", "words"),
  [
    ("", "holds no records"),
    ("[]", "holds no records"),
    (json.dumps(GOOD) + '\n{"question": \n', "line 2 is not JSON"),
    ('{"data": [\n{"question": }\n]}', "line 2 is not JSON"),
    ("question,answer\n", "line 1 is not JSON"),
    ('"text"', "must hold a list of records"),
    ("[" * 100_000, "line 1 cannot be read as JSON"),
    (json.dumps(GOOD) + "\n" + "[" * 100_000, "line 2 cannot be read as JSON"),
    ('{"id": ' + "1" * 5000 + "}", "line 1 cannot be read as JSON"),
  ],
)
def test_a_bad_file_is_named(tmp_path, content, words):
  path = tmp_path / "bad.json"
  path.write_text(content)
  with pytest.raises(UserError, match=words):
    list(outputs.read(path))


def test_a_missing_file_and_one_that_is_not_text_are_refused(tmp_path):
  with pytest.raises(UserError, match="none.json does not exist"):
    list(outputs.read(tmp_path / "none.json"))
  path = tmp_path / "binary.json"
  path.write_bytes(b"\xff\xfe\x00")
  with pytest.raises(UserError, match="not UTF-8"):
    list(outputs.read(path))


@pytest.mark.parametrize("dataset", [None, "nq"])
def test_the_given_task_is_that_of_every_record(tmp_path, dataset):
  path = tmp_path / "outputs.jsonl"
  path.write_text(json.dumps(changed(dataset=dataset)))
  assert outputs.peek(path, task="list")["task"] == "list"
  with pytest.raises(UserError, match="the task is 'foo'"):
    outputs.peek(path, task="foo")


def test_a_dataset_is_known_however_it_is_written(tmp_path):
  path = tmp_path / "outputs.jsonl"
  path.write_text(json.dumps(changed(dataset="QAMPARI")))
  assert outputs.peek(path)["task"] == "list"
