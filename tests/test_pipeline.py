import collections
import dataclasses

import numpy as np
import pytest

from grounded_jax import config, pipeline, records, tokenizer
from grounded_jax.records import UserError

TOKENIZER = tokenizer.Bytes()
DATA = config.Data(style="tiny", max_prompt_len=400)


def example(i, docs=3, words=10):
  return records.Example(
    id=f"e{i}",
    task="short",
    question=f"What is {i}?",
    docs=tuple(
      records.Doc(
        title=f"T{d}", text=f"word{d} " * words, answers_found=(int(d == 2),)
      )
      for d in range(docs)
    ),
    answers=(("word2",),),
    answerable=docs > 2,
  )


def prompts(n=5, seed=0, stage=0, data=DATA, **kwargs):
  pool = [example(i) for i in range(n)]
  return pipeline.Prompts(pool, TOKENIZER, data, seed, stage, **kwargs)


def ids(examples):
  return [e.id for e in examples]


def test_a_prompt_that_fits_is_its_text():
  shown, tokens = pipeline.fit(example(0), TOKENIZER, DATA)
  assert shown == example(0)
  text = pipeline.render(shown, TOKENIZER, DATA)
  assert TOKENIZER.decode(tokens) == text and "word2" in text


def test_a_long_prompt_loses_whole_passages_from_the_end_and_its_answer():
  whole = len(pipeline.fit(example(0), TOKENIZER, DATA)[1])
  data = dataclasses.replace(DATA, max_prompt_len=whole - 1)
  shown, tokens = pipeline.fit(example(0), TOKENIZER, data)
  assert shown.docs == example(0).docs[:2] and not shown.answerable
  assert shown.question == example(0).question
  text = TOKENIZER.decode(tokens)
  assert "What is 0?" in text and "Document [2]" in text
  assert "word2" not in text
  exact = dataclasses.replace(data, max_prompt_len=whole)
  assert pipeline.fit(example(0), TOKENIZER, exact)[0] == example(0)


def test_a_prompt_that_cannot_fit_names_record_and_limit():
  error = dataclasses.replace(DATA, max_prompt_len=150, too_long="error")
  with pytest.raises(UserError, match="'e0'.*data.max_prompt_len=150"):
    pipeline.fit(example(0), TOKENIZER, error)
  data = dataclasses.replace(DATA, max_prompt_len=50)
  with pytest.raises(UserError, match="1 of its passages"):
    pipeline.fit(example(0), TOKENIZER, data)


def test_fits_counts_what_was_dropped():
  pool = [example(0), example(1, words=20), example(2, docs=2, words=3)]
  _, fits = pipeline.fit_all(pool, TOKENIZER, DATA)
  assert (fits.prompts, fits.shortened, fits.passages) == (3, 1, 1)
  assert fits.flipped == 1 and fits.longest <= 400


def test_a_choice_of_answerables_holds_after_passages_were_dropped():
  pool = [example(0), example(1, words=20)]
  kept = pipeline.Prompts(pool, TOKENIZER, DATA, 0, 0, answerable="only")
  assert len(kept) == 1 and ids(kept.take(0, 1)[1]) == ["e0"]
  with pytest.raises(UserError, match="answerable=only"):
    pipeline.Prompts(pool[1:], TOKENIZER, DATA, 0, 0, answerable="only")


def test_arrays_are_right_padded_to_one_length():
  assert pipeline.bucket(1, DATA) == 64
  assert pipeline.bucket(64, DATA) == 64
  assert pipeline.bucket(65, DATA) == 128
  assert pipeline.bucket(399, DATA) == 400  # never above max_prompt_len
  batch = pipeline.pack([[5, 6, 7], [8]], keys=[1, 2], length=4)
  np.testing.assert_array_equal(batch.tokens, [[5, 6, 7, 0], [8, 0, 0, 0]])
  np.testing.assert_array_equal(batch.length, [3, 1])
  np.testing.assert_array_equal(batch.key, [1, 2])


def test_keys_are_31_bits_of_the_name_alone():
  assert pipeline.key("e0") == pipeline.key("e0") != pipeline.key("e1")
  keys = [pipeline.key(str(i)) for i in range(1000)]
  assert len(set(keys)) == 1000
  assert 2**30 < max(keys) < 2**31 and min(keys) >= 0


def test_every_epoch_takes_each_prompt_once_in_an_order_of_its_own():
  pool = prompts(7)
  epochs = [ids(pool.take(7 * k, 7)[1]) for k in range(4)]
  assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
  assert len(set(map(tuple, epochs))) > 1


def test_the_order_is_a_function_of_seed_stage_and_position_alone():
  whole_batch, whole = prompts(7).take(0, 20)
  batches = [prompts(7).take(k, 4) for k in range(0, 20, 4)]  # fresh each time
  assert ids(whole) == [name for _, part in batches for name in ids(part)]
  tokens = np.concatenate([batch.tokens for batch, _ in batches])
  np.testing.assert_array_equal(tokens, whole_batch.tokens)
  keys = np.concatenate([batch.key for batch, _ in batches])
  np.testing.assert_array_equal(keys, whole_batch.key)
  assert ids(prompts(7, seed=1).take(0, 20)[1]) != ids(whole)
  assert ids(prompts(7, stage=1).take(0, 20)[1]) != ids(whole)


def test_a_prompt_that_recurs_in_a_batch_has_another_key():
  batch, examples = prompts(3).take(0, 9)
  assert collections.Counter(ids(examples)) == {"e0": 3, "e1": 3, "e2": 3}
  assert len(set(batch.key.tolist())) == 9
  first = {name: pipeline.key(name) for name in ("e0", "e1", "e2")}
  assert [first[name] for name in ids(examples[:3])] == batch.key[:3].tolist()
