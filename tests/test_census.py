"""What --mode=data counts, on records small enough to count by hand."""

import json

import pytest
import rich.console

from grounded_jax import census, config, tokenizer


def record(number, texts, answers, bits):
  docs = [
    {"title": "T", "text": text} | ({} if b is None else {"answers_found": b})
    for text, b in zip(texts, bits, strict=True)
  ]
  row = {"id": f"r{number}", "dataset": "nq", "question": "Q?", "docs": docs}
  return row | {"answers": answers}


@pytest.fixture
def source(tmp_path):
  rows = [
    record(0, ["a b", "c d e f"], [["a"]], [[1], [0]]),
    record(1, ["a", "b c"], [["x"], ["y"], ["c"]], [None, None]),
    record(2, ["a b c", "d"], [["x"]], [[0], [0]]),
    record(3, ["w " * 40, "x"], [["x"]], [[0], [1]]),
  ]
  path = tmp_path / "a.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return config.Source(path=str(path))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("in_memory", [0, 100])
def test_counts_are_those_of_the_records(source, in_memory, workers):
  source = config.Source(path=source.path, in_memory=in_memory)
  # "short\nQuestion: Q?\n" has 19 bytes, a passage 25 and those of its text.
  cfg = config.Data(
    style="tiny", chat=False, max_prompt_len=149, workers=workers
  )
  found = census.count(cfg, source, config.Verifier(), tokenizer.Bytes())
  lengths = [19 + 2 * 25 + n for n in (3 + 7, 1 + 3, 5 + 1)]
  lengths.append(19 + 25 + 80)  # without its second passage: one too many
  assert (found["read"], found["records"], found["computed"]) == (4, 4, 1)
  assert (found["golds"], found["most_golds"]) == (6 / 4, 3)
  assert found["answerable"] == 3 / 4 and found["passages"] == 2
  assert found["words"] == {"mean": (6 + 3 + 4 + 41) / 8, "most": 40}
  assert found["tokens"] == {
    "mean": sum(lengths) / 4,
    "p50": (lengths[0] + lengths[2]) / 2,
    "p95": pytest.approx(0.15 * lengths[0] + 0.85 * lengths[3]),
    "most": lengths[3],
  }
  assert found["fits"]["shortened"] == found["fits"]["passages"] == 1
  assert found["fits"]["flipped"] == 1
  first, middle, last = found["samples"]
  assert (first["id"], middle["id"], last["id"]) == ("r0", "r2", "r3")
  assert first["answers"] == [{"aliases": ["a"], "in_passages": True}]
  assert not last["answerable"] and last["passages"] == 1


def test_people_see_tables_samples_and_what_is_expected(source):
  cfg = config.Data(style="tiny", chat=False, max_prompt_len=149)
  found = census.count(cfg, source, config.Verifier(), tokenizer.Bytes())
  people = rich.console.Console(record=True, width=80, markup=False)
  census.show(people, {"stage one": found, "eval two": found})
  shown = people.export_text()
  assert "75.0%" in shown and "1.50" in shown
  assert "eval two: answers_found computed for 1 records." in shown
  assert "stage one: 1 passages of 1 prompts left out to fit" in shown
  for sample in found["samples"]:
    assert shown.count(sample["prompt"]) == 1  # once, of all sources
  assert shown.count("=> a refusal") == 2 and "=> a\n" in shown
