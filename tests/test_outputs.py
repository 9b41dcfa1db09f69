import json
import math

import pytest

from grounded_jax import jsonstream, outputs
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


def test_forms_of_files_may_be_many_blocks_long(tmp_path, monkeypatch):
  monkeypatch.setattr(jsonstream, "_BLOCK", 7)
  rows = [GOOD | {"output": f'"é{i}\\"]}}' * i, "n": i} for i in range(40)]
  for form in (
    json.dumps(rows),
    json.dumps(rows, indent=1),
    "\r\n".join(json.dumps(row) for row in rows),
    json.dumps({"config": {"a": [1, 2]}, "data": rows, "cost": 12345}),
    json.dumps({"args": None, "data": rows}, indent=2) + "\n\n",
  ):
    path = tmp_path / "rows.json"
    path.write_text(form, "utf-8")
    assert list(outputs.read(path)) == [{**r, "task": "short"} for r in rows]


def test_a_long_file_is_read_no_further_than_it_is_asked(tmp_path):
  path = tmp_path / "long.json"
  rows = ", ".join([json.dumps(GOOD)] * 2000)
  path.write_text(f'{{"data": [{rows}, BROKEN')
  found = outputs.read(path)
  assert [next(found)["output"] for _ in range(2000)] == ["a [1]."] * 2000
  with pytest.raises(UserError, match="line 1 is not JSON: Expecting value"):
    next(found)


def test_numbers_that_are_none_are_read(tmp_path):
  path = tmp_path / "nan.json"
  path.write_text(json.dumps({"data": [GOOD | {"rec_score": math.nan}]}))
  assert math.isnan(outputs.peek(path)["rec_score"])


def test_a_record_may_be_one_object_over_many_lines(tmp_path):
  path = tmp_path / "one.json"
  path.write_text(json.dumps(GOOD | {"data": [1]}, indent=2))
  assert outputs.peek(path) == GOOD | {"data": [1], "task": "short"}


def test_gold_answers_may_stand_as_in_the_data_sets(tmp_path):
  path = tmp_path / "asqa.json"
  bits = [{"title": "T", "text": "x", "answers_found": [1, 0]}]
  bare = {k: GOOD[k] for k in ("question", "output")} | {"docs": bits}
  pairs = [{"short_answers": ["a", "b"]}, {"short_answers": ["c"]}]
  path.write_text(json.dumps({"data": [bare | {"qa_pairs": pairs}]}))
  got = outputs.peek(path)
  assert (got["answers"], got["task"]) == ([["a", "b"], ["c"]], "short")
  path.write_text(json.dumps({"data": [bare | {"claims": ["d", "e"]}]}))
  got = outputs.peek(path)
  assert (got["answers"], got["task"]) == ([["d"], ["e"]], "claims")
  path.write_text(json.dumps(bare | {"qa_pairs": [{"question": "Q"}]}))
  with pytest.raises(UserError, match="each of 'qa_pairs' needs"):
    outputs.peek(path)


def test_only_the_first_passages_count_as_shown(tmp_path):
  path = tmp_path / "hundred.json"
  doc = GOOD["docs"][0]
  path.write_text(json.dumps(GOOD | {"docs": [doc] * 100}))
  assert len(next(outputs.read(path))["docs"]) == 100
  assert len(next(outputs.read(path, docs=5))["docs"]) == 5


def test_passages_may_lack_answers_found(tmp_path):
  path = tmp_path / "bits.json"
  docs = [{"title": "T", "text": "x"}]
  path.write_text(json.dumps(GOOD | {"docs": docs}))
  assert outputs.peek(path)["docs"] == docs


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
    ('{"data": {"a": 1}}', "must hold a list of records"),
    ('{"data": [], "data": 3', "line 1 is not JSON: Expecting ','"),
    (json.dumps([GOOD]) + "\n{}", "line 2 is not JSON: Extra data"),
    (json.dumps({"data": [GOOD]}) + "]", "line 1 is not JSON: Extra data"),
    ("[" + json.dumps(GOOD) + ",]", "line 1 is not JSON: Expecting value"),
    (json.dumps(GOOD)[:-1], "line 1 is not JSON: Expecting ',' at column"),
    ("{'question': 1}", "line 1 is not JSON: Expecting a name"),
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
