"""Which records a stage reads."""

import json

from grounded_jax import config, inputs, tokenizer


def written(path, names):
  """A file of records, every second one answerable."""
  rows = [
    {
      "id": name,
      "task": "short",
      "question": f"who is {name}",
      "answers": [[name]],
      "docs": [{"title": "t", "text": "x", "answers_found": [i % 2]}],
    }
    for i, name in enumerate(names)
  ]
  path.write_text("\n".join(json.dumps(row) for row in rows))
  return str(path)


def test_a_stage_reads_its_own_files_and_chooses_among_them(tmp_path):
  ours = written(tmp_path / "a.jsonl", "abcd")
  theirs = written(tmp_path / "b.jsonl", "efgh")
  stage = lambda name, **options: config.Stage(name=name, **options)
  experiment = config.Experiment(
    name="e",
    data=config.Data(train=config.Source(path=ours)),
    stages=(
      stage("one"),
      stage("two", records=theirs, answerable="only"),
      stage("three", records=f"{ours},{theirs}", limit=5),
    ),
  )
  read = [
    {
      example.id
      for example in inputs.training_data(
        experiment, index, tokenizer.Bytes()
      ).take(0, size)[1]
    }
    for index, size in ((0, 4), (1, 2), (2, 5))
  ]
  assert read[:2] == [set("abcd"), set("fh")]
  assert len(read[2]) == 5 and read[2] < set("abcdefgh")
