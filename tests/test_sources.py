import collections
import json
import pathlib

import pytest

from grounded_jax import config
from grounded_jax.data import parsing, sources
from grounded_jax.records import UserError

REAL = pathlib.Path(__file__).parents[2] / "shared" / "data"


def record(i=0, bits=((1,), (0,)), **changes):
  docs = [
    {"title": f"T{d}", "text": f"Fact {d} of {i}.", "answers_found": list(b)}
    for d, b in enumerate(bits)
  ]
  base = {"id": f"r{i}", "dataset": "nq", "question": f"What is {i}?"}
  return base | {"answers": [["fact 0", "zero"]], "docs": docs} | changes


def write(path, records):
  path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
  return str(path)


def load(path, passages=5, **choices):
  return sources.load(config.Source(path=str(path), **choices), passages)


def test_json_lines_list_and_data_hold_the_same_examples(tmp_path):
  records = [record(i) for i in range(3)]
  lines = write(tmp_path / "a.jsonl", records)
  (tmp_path / "b.json").write_text(json.dumps(records, indent=1))
  (tmp_path / "c.json").write_text(json.dumps({"data": records}))
  (tmp_path / "d.json").write_text(json.dumps({"data": records}, indent=1))
  write(tmp_path / "e.json", records)  # JSON lines under another name
  want, stats = load(lines)
  for name in ("b.json", "c.json", "d.json", "e.json"):
    assert load(tmp_path / name)[0] == want
  assert (stats.read, stats.records, stats.answerable) == (3, 3, 1.0)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"question": None}, "'question' must be a string, not null"),
    ({"question": " "}, "'question' is empty"),
    ({"answers": "x"}, "'answers' must be a list, not a string"),
    ({"answers": ["x"]}, "entry 1 of 'answers' must be a list of strings"),
    ({"docs": []}, "has no docs"),
    ({"docs": ["x"]}, "doc 1 must be an object, not a string"),
    ({"docs": [{"title": "t"}]}, "doc 1 has no 'text'"),
    ({"docs": [{"text": "t"}]}, "doc 1 has no 'title'"),
    ({"task": "essay"}, "the task is 'essay'"),
    ({"task": 3}, "'task' must be a string, not a number"),
    ({"dataset": "", "task": ""}, "the task is 'not stated'"),
    ({"question": "\ud800"}, "holds half of a surrogate pair"),
    ({"answers": [["a", "\udfff"]]}, "holds half of a surrogate pair"),
  ],
)
def test_a_bad_record_names_file_and_line(tmp_path, change, message):
  path = write(tmp_path / "a.jsonl", [record(0), record(1, **change)])
  with pytest.raises(UserError, match=f"a.jsonl line 2.*{message}"):
    load(path)


@pytest.mark.parametrize("name", ["question", "answers", "docs"])
def test_a_missing_field_is_named(tmp_path, name):
  bad = record(1)
  del bad[name]
  path = write(tmp_path / "a.jsonl", [record(0), bad])
  with pytest.raises(UserError, match=f"a.jsonl line 2 has no '{name}'"):
    load(path)


def test_bits_must_be_one_per_answer(tmp_path):
  path = write(tmp_path / "a.jsonl", [record(0, bits=((1, 0),))])
  with pytest.raises(UserError, match="one 0 or 1 for each of the 1 answers"):
    load(path)


def test_malformed_files_are_named_with_their_line(tmp_path):
  good = json.dumps(record())
  (tmp_path / "a.jsonl").write_text(f"{good}\n\n{good[:-9]}\n")
  with pytest.raises(UserError, match="a.jsonl line 3 is not JSON"):
    load(tmp_path / "a.jsonl")
  (tmp_path / "b.json").write_text(f"[\n{good},\n{good[:-9]}\n]")
  with pytest.raises(UserError, match=r"b.json line 3 is not JSON"):
    load(tmp_path / "b.json")
  (tmp_path / "c.json").write_text("[3]")
  with pytest.raises(UserError, match="c.json record 1.*not a number"):
    load(tmp_path / "c.json")
  for number, content in enumerate(("[" * 100_000, "1" * 5000)):
    path = tmp_path / f"deep{number}.jsonl"
    path.write_text(f"{good}\n{content}\n")
    with pytest.raises(UserError, match="jsonl line 2 cannot be read as JSON"):
      load(path)
  (tmp_path / "d.jsonl").write_bytes(b"\xff\xfe\xff")
  with pytest.raises(UserError, match="d.jsonl is not UTF-8"):
    load(tmp_path / "d.jsonl")
  (tmp_path / "e.jsonl").write_text("")
  with pytest.raises(UserError, match="gives no example: 0 read"):
    load(tmp_path / "e.jsonl")
  with pytest.raises(UserError, match="nowhere.jsonl does not exist"):
    load(tmp_path / "nowhere.jsonl")
  with pytest.raises(UserError, match="data.train.path"):
    load("")


def test_answerable_follows_the_passages_shown(tmp_path):
  path = write(tmp_path / "a.jsonl", [record(0, ((0,), (1,)), answerable=True)])
  assert load(path)[0][0].answerable
  ((example,), _) = load(path, passages=1)
  assert not example.answerable and len(example.docs) == 1


def test_missing_bits_come_from_whole_word_alias_match_and_are_counted(
  tmp_path,
):
  docs = [
    {"title": "Polo", "text": "He was born in 1254, some say."},
    {"title": "Year", "text": "The year 12540."},
    {"title": "1254", "text": "A year."},
    {"title": "Given", "text": "1254", "answers_found": [0]},
  ]
  path = write(tmp_path / "a.jsonl", [record(docs=docs, answers=[["1254"]])])
  ((example,), stats) = load(path)
  assert [doc.answers_found for doc in example.docs] == [(1,), (0,), (1,), (0,)]
  assert example.answerable and stats.computed == 1


def test_a_verifier_must_agree_with_the_match_and_alone_judges_claims(tmp_path):
  asked = []

  def verifier(premises, hypotheses):
    asked.extend(hypotheses)
    return ["0" in premise for premise in premises]

  docs = [{"title": "", "text": f"Fact {d}: zero."} for d in range(2)]
  path = write(tmp_path / "a.jsonl", [record(docs=docs)])
  source = config.Source(path=path)
  ((example,), _) = sources.load(source, 5, verifier)
  assert [doc.answers_found for doc in example.docs] == [(1,), (0,)]
  assert asked == ["What is 0? fact 0"] * 2
  ((example,), _) = sources.load(source, 5, verifier, confirm=False)
  assert [doc.answers_found for doc in example.docs] == [(1,), (1,)]
  assert len(asked) == 2
  source = config.Source(path=path, task="claims")
  ((example,), _) = sources.load(source, 5, verifier, confirm=False)
  assert example.task == "claims" and asked[2:] == ["fact 0"] * 2


def test_task_is_the_sources_then_the_records_then_the_datasets(tmp_path):
  path = write(
    tmp_path / "a.jsonl",
    [record(0, dataset="QAMPARI"), record(1, task="claims")],
  )
  assert [e.task for e in load(path)[0]] == ["list", "claims"]
  assert [e.task for e in load(path, task="short")[0]] == ["short", "short"]


def pool(tmp_path, counts):
  """Records of (dataset, answerable) -> how many."""
  records, i = [], 0
  for (dataset, answerable), n in counts.items():
    for _ in range(n):
      bits = ((int(answerable),), (0,))
      records.append(record(i, bits, dataset=dataset))
      i += 1
  return write(tmp_path / "pool.jsonl", records)


def shape(examples):
  return collections.Counter((e.dataset, e.answerable) for e in examples)


def test_even_keeps_half_and_half_and_says_what_it_dropped(tmp_path):
  path = pool(tmp_path, {("nq", True): 7, ("nq", False): 4})
  examples, stats = load(path, answerable="even")
  assert shape(examples) == {("nq", True): 4, ("nq", False): 4}
  assert stats.dropped == {"to keep the halves or datasets even": 3}
  examples, stats = load(path, answerable="even", limit=6)
  assert shape(examples) == {("nq", True): 3, ("nq", False): 3}
  assert stats.dropped["over the limit"] == 2


def test_balance_takes_as_many_from_every_dataset_in_each_half(tmp_path):
  counts = {("asqa", True): 5, ("asqa", False): 2}
  counts |= {("eli5", True): 3, ("eli5", False): 4}
  path = pool(tmp_path, counts)
  examples, _ = load(path, answerable="even", balance=True)
  assert set(shape(examples).values()) == {2} and len(examples) == 8
  examples, stats = load(path, answerable="only", balance=True)
  assert shape(examples) == {("asqa", True): 3, ("eli5", True): 3}
  assert stats.dropped["unanswerable"] == 6


def test_the_choice_depends_on_the_seed_and_not_on_the_order(tmp_path):
  records = [record(i) for i in range(40)]
  a, _ = load(write(tmp_path / "a.jsonl", records), limit=10)
  b, _ = load(write(tmp_path / "b.jsonl", records[::-1]), limit=10)
  c, _ = load(tmp_path / "a.jsonl", limit=10, seed=1)
  ids = lambda examples: {e.id for e in examples}
  assert ids(a) == ids(b) != ids(c)
  more, _ = load(tmp_path / "a.jsonl", limit=20)
  assert ids(a) < ids(more)


def test_ids_are_distinct_over_files_and_made_from_content_if_missing(tmp_path):
  bare = record(3)
  del bare["id"]
  a = write(tmp_path / "a.jsonl", [record(1, id=7), record(2, id=7), bare])
  b = write(tmp_path / "b.jsonl", [bare])
  first, second, made, again = [e.id for e in load(f"{a}, {b}")[0]]
  assert (first, second, again) == ("7", "7#2", f"{made}#2")
  assert load(b)[0][0].id == made
  names = ("x", "x", "x#2", "x")
  c = write(tmp_path / "c.jsonl", [record(id=name) for name in names])
  assert [e.id for e in load(c)[0]] == ["x", "x#3", "x#2", "x#4"]


def test_nothing_left_after_the_choice_is_an_error(tmp_path):
  path = pool(tmp_path, {("nq", False): 2})
  with pytest.raises(UserError, match="gives no example: 2 read"):
    load(path, answerable="only")
  with pytest.raises(UserError, match="halves or datasets even"):
    load(path, answerable="even")


def test_the_world_keeps_its_thirds_and_pairs_under_a_limit():
  examples, stats = load("world:test", limit=60)
  assert stats.tasks == {"claims": 20, "list": 20, "short": 20}
  assert stats.answerable == 0.5 and stats.records == 60
  only, stats = load("world:train", answerable="only", limit=7, task="list")
  assert stats.tasks == {"list": 7} and all(e.answerable for e in only)
  few, _ = load("world:test", limit=60, passages=2)
  assert {len(e.docs) for e in few} == {2}
  assert 0 < sum(e.answerable for e in few) < 30
  with pytest.raises(UserError, match="no split 'exam'"):
    load("world:exam")


@pytest.mark.skipif(not REAL.is_dir(), reason="real records are not here")
@pytest.mark.parametrize(
  "name, records, answerable, golds",
  [
    ("nq_train", 2260, 0.500, 1.00),
    ("nq_dev", 300, 0.500, 1.00),
    ("expertqa_dev", 254, 0.606, 5.09),
    ("eli5_dev", 200, 0.500, 5.97),
  ],
)
def test_real_files_have_the_published_counts(name, records, answerable, golds):
  _, stats = load(REAL / f"{name}.jsonl")
  assert stats.records == records and stats.computed == 0
  assert round(stats.answerable, 3) == answerable
  assert round(stats.golds, 2) == golds and stats.passages == 5


@pytest.mark.skipif(not REAL.is_dir(), reason="real records are not here")
def test_alias_match_finds_the_annotated_passage_of_nq():
  agree = total = 0
  for where, raw in parsing.rows(REAL / "nq_dev.jsonl"):
    want = [doc.pop("answers_found") for doc in raw["docs"]]
    got = parsing.parse(where, raw).example.docs
    agree += sum(
      list(d.answers_found) == w for d, w in zip(got, want, strict=True)
    )
    total += len(want)
  assert agree / total > 0.99
