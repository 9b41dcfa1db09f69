"""Sources of other shapes; large ones are read like small ones."""

import datetime
import json

import pytest

from grounded_jax import config
from grounded_jax.data import parsing, pool, sources
from grounded_jax.records import UserError


def passages(n=100, hit="Fact 1.", bits=None):
  docs = [
    {"id": str(i), "title": f"T{i}", "text": "Nothing.", "score": 1.0 - i / 200}
    for i in range(n)
  ]
  docs[1] |= {"text": hit}
  if bits is not None:
    docs = [
      doc | {"answers_found": bits if i == 1 else [0] * len(bits)}
      for i, doc in enumerate(docs)
    ]
  return docs


def record(i=0, dataset="nq", answerable=True, **changes):
  docs = [
    {"title": "T", "text": f"Fact {i}.", "answers_found": [int(answerable)]}
  ]
  base = {"id": f"r{i}", "dataset": dataset, "question": f"What is {i}?"}
  return base | {"answers": [["fact"]], "docs": docs} | changes


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def load(path, passages=5, verifier=None, **source):
  source = config.Source(path=str(path), **source)
  return sources.load(source, passages, verifier, confirm=False)


def test_alce_files_are_read_as_they_are(tmp_path):
  """Hundred passages a question, three shapes of answers, no bits."""
  pair = {"question": "Which?", "short_answers": ["fact 1", "one"]}
  asqa = {"question": "Q?", "docs": passages(), "answer": "Long.", "qa_pairs": [
    pair, pair | {"short_answers": ["two"]}
  ]}  # fmt: skip
  path = tmp_path / "asqa_eval_gtr_top100.json"
  path.write_text(json.dumps([asqa] * 2))
  (first, second), stats = load(path)
  assert (first.dataset, first.task) == ("asqa", "short")
  assert first.answers == (("fact 1", "one"), ("two",))
  assert [d.title for d in first.docs] == ["T0", "T1", "T2", "T3", "T4"]
  assert first.docs[1].answers_found == (1, 0) and first.answerable
  assert second.id == f"{first.id}#2" and stats.computed == 2

  listed = {
    "question": "Q?",
    "docs": passages(),
    "answers": [["a", "b"], ["c"]],
  }
  path = tmp_path / "qampari_eval_gtr_top100.json"
  path.write_text(json.dumps([listed], indent=1))
  ((example,), _) = load(path, passages=3)
  assert (example.dataset, example.task) == ("qampari", "list")
  assert example.answers == (("a", "b"), ("c",)) and len(example.docs) == 3

  asked = []

  def verifier(premises, hypotheses):
    asked.extend(hypotheses)
    return [hypothesis in premise for premise, hypothesis in zip(
      premises, hypotheses, strict=True
    )]  # fmt: skip

  claims = {"question": "Q?", "docs": passages(), "claims": ["Fact 1.", "No."]}
  path = tmp_path / "eli5_eval_bm25_top100.json"
  path.write_text(json.dumps([claims]))
  ((example,), _) = load(path, passages=2, verifier=verifier)
  assert (example.dataset, example.task) == ("eli5", "claims")
  assert example.answers == (("Fact 1.",), ("No.",))
  assert [doc.answers_found for doc in example.docs] == [(0, 0), (1, 0)]
  assert len(asked) == 4  # of the passages shown alone


def test_trust_score_files_show_their_first_passages(tmp_path):
  row = {
    "question": "Q?",
    "answers": [["Fact 1."], ["x"]],
    "docs": passages(bits=[0, 1]),
  }
  path = tmp_path / "expertqa_eval_top100_calibrated.json"
  path.write_text(json.dumps({"data": [row], "config": {"seed": 1}}))
  ((example,), stats) = load(path)
  assert (example.dataset, example.task) == ("expertqa", "claims")
  assert example.supported == (False, True) and stats.computed == 0
  ((example,), _) = load(path, passages=1)
  assert not example.answerable


def test_a_file_is_read_no_further_than_it_is_asked_for(tmp_path):
  good = json.dumps(record())
  for name in ("a.jsonl", "b.json"):
    path = tmp_path / name
    path.write_text(f"{good}\n{{broken\n")
    rows = parsing.rows(path)
    assert next(rows) == (f"{path} line 1", record())
    with pytest.raises(UserError, match=f"{name} line 2 is not JSON"):
      next(rows)
  path.write_bytes(good.encode() + b"\n" + b"\xff\n")
  path = path.rename(tmp_path / "c.jsonl")
  with pytest.raises(UserError, match=r"not UTF-8 text .* in line 2"):
    list(parsing.rows(path))


@pytest.fixture
def rows():
  return [record(i, answerable=i % 2 == 0, extra=None) for i in range(6)]


def test_parquet_and_datasets_hold_the_same_examples(tmp_path, rows):
  datasets = pytest.importorskip("datasets")
  want, stats = load(write(tmp_path / "a.jsonl", rows))
  made = datasets.Dataset.from_list(rows)
  (tmp_path / "folder").mkdir()
  made.to_parquet(tmp_path / "folder" / "train.parquet")
  made.save_to_disk(tmp_path / "saved")
  datasets.DatasetDict(train=made, dev=made.select([0])).save_to_disk(
    tmp_path / "both"
  )
  places = (
    tmp_path / "folder" / "train.parquet",
    f"hf:{tmp_path}/folder",
    f"hf:{tmp_path}/saved",
    f"hf:{tmp_path}/both@train",
    f"hf:json:{tmp_path}/a.jsonl",
  )
  for place in places:
    assert load(place) == (want, stats)
  assert load(f"hf:{tmp_path}/folder", streaming=True) == (want, stats)
  assert load(f"hf:{tmp_path}/both@dev")[0] == want[:1]
  assert load(f"hf:{tmp_path}/folder@train[:2]", streaming=True)[0] == want[:2]
  bad = made.map(lambda row: {"question": " " if row["id"] == "r3" else "Q?"})
  bad.to_parquet(tmp_path / "bad.parquet")
  with pytest.raises(UserError, match="bad.parquet row 4: 'question' is empty"):
    load(tmp_path / "bad.parquet")


def test_a_saved_dataset_has_no_split_but_its_own(tmp_path, rows):
  """Else training and evaluation would read the same rows."""
  datasets = pytest.importorskip("datasets")
  datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
  for name in ("saved@validation", "saved:plain"):
    with pytest.raises(UserError, match="leave .* out"):
      load(f"hf:{tmp_path}/{name}")


def test_passages_may_have_columns_that_are_no_json(tmp_path, rows):
  datasets = pytest.importorskip("datasets")
  day = datetime.date(2020, 1, 1)
  for row in rows:
    del row["id"]
    row["docs"] = [{**doc, "date": day} for doc in row["docs"]]
  path = tmp_path / "a.parquet"
  datasets.Dataset.from_list(rows).to_parquet(path)
  examples, _ = load(path)
  assert len({example.id for example in examples}) == len(rows)


def test_a_line_that_was_cut_off_is_named(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text(json.dumps(record()) + '\n{"question":\n')
  with pytest.raises(UserError, match="a.jsonl line 2 is not JSON"):
    list(parsing.rows(path))


def test_a_dataset_that_cannot_be_had_is_one_sentence(tmp_path, monkeypatch):
  datasets = pytest.importorskip("datasets")
  monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
  with pytest.raises(UserError, match=r"The dataset hf:org/none .*hub can be"):
    load("hf:org/none")
  (tmp_path / "a.parquet").write_bytes(b"PAR0")
  with pytest.raises(UserError, match=r"parquet file .*a.parquet cannot be"):
    load(tmp_path / "a.parquet")
  for name in ("hf:", "hf:a:", "hf:a@b[3:]"):
    with pytest.raises(UserError, match="must be hf:NAME"):
      load(name)


def test_columns_give_records_their_names(tmp_path, rows):
  want, _ = load(write(tmp_path / "a.jsonl", rows))
  other = [
    {
      "qid": row["id"],
      "query": row["question"],
      "dataset": "nq",
      "golds": ["fact"],
      "ctxs": {
        "name": ["T"],
        "body": [row["docs"][0]["text"]],
        "has": [row["docs"][0]["answers_found"]],
      },
    }
    for row in rows
  ]
  names = (
    "id=qid, question=query, answers=golds, docs=ctxs, title=name, text=body,"
    " answers_found=has"
  )
  path = write(tmp_path / "b.jsonl", other)
  assert load(path, columns=names)[0] == want
  claims, _ = load(path, columns=names, task="claims")
  assert claims[0].answers == (("fact",),)
  with pytest.raises(UserError, match="line 1 has no column 'x'"):
    load(path, columns="question=x")
  with pytest.raises(UserError, match="doc 1 has no 'x'"):
    load(path, columns="docs=ctxs,question=query,answers=golds,text=x")
  with pytest.raises(
    UserError, match="columns='query=question': 'query' must be one"
  ):
    config.Source(columns="query=question")
  with pytest.raises(UserError, match="pairs like a=b"):
    config.Source(columns="question")
  bare = {"question": "Q?", "dataset": "qampari", "golds": ["a", "b"]}
  path = write(tmp_path / "c.jsonl", [bare | {"ctxs": ["a b", "c"]}])
  ((example,), _) = load(path, columns="answers=golds,docs=ctxs")
  assert example.answers == (("a",), ("b",))
  assert [(d.title, d.text) for d in example.docs] == [("", "a b"), ("", "c")]


@pytest.mark.parametrize(
  "choice",
  [
    {},
    {"answerable": "only"},
    {"answerable": "even", "limit": 9, "seed": 3},
    {"answerable": "even", "balance": True},
    {"mix": "nq=1,asqa=2", "limit": 15},
  ],
  ids=str,
)
def test_a_source_on_disk_is_the_one_in_memory(tmp_path, choice):
  many = [
    record(
      i,
      dataset=("nq", "asqa", "eli5")[i % 3],
      answerable=i % 5 < 2,
      id=("x", "x", "x#2", "y")[i] if i < 4 else f"r{i}",
    )
    for i in range(60)
  ]
  path = write(tmp_path / "a.jsonl", many)
  want, stats = load(path, **choice)
  got, other = load(path, in_memory=0, **choice)
  assert isinstance(want, tuple) and isinstance(got, pool.Kept)
  assert (tuple(got), other) == (want, stats)
  assert (got[3], got[-1], got[2:5]) == (want[3], want[-1], want[2:5])
  assert got.answerable.tolist() == [e.answerable for e in want]
  assert [got.datasets[i] for i in got.dataset] == [e.dataset for e in want]
  # What was read spills at any place; few that are chosen are in memory.
  again, other = load(path, in_memory=59, **choice)
  assert isinstance(again, tuple) or not choice
  assert (tuple(again), other) == (want, stats)


def test_a_mix_names_datasets_that_are_there(tmp_path):
  path = write(tmp_path / "a.jsonl", [record(0), record(1, dataset="asqa")])
  examples, stats = load(path, mix="nq=1")
  assert [e.dataset for e in examples] == ["nq"]
  assert stats.dropped == {"not in the mix": 1}
  with pytest.raises(
    UserError, match="no dataset 'eli5'; it has: 'asqa', 'nq'"
  ):
    load(path, mix="nq=1,eli5=2")
  for bad in ("nq=0", "nq=x", "nq=-1"):
    with pytest.raises(UserError, match="the weight of nq must be a number"):
      config.Source(mix=bad)
  with pytest.raises(UserError, match="is for training"):
    config.Eval(name="e", source=config.Source(mix="nq=1"))
