"""Prompts made when they are taken are those made at the start."""

import collections
import dataclasses

import numpy as np
import pytest

from grounded_jax import config, ondemand, pipeline, tokenizer
from grounded_jax.data import pool
from grounded_jax.records import Doc, Example, UserError

TOKENIZER = tokenizer.Bytes()
DATA = config.Data(style="tiny", max_prompt_len=400)


def example(i, answerable=True, words=10, dataset="nq"):
  return Example(
    id=f"e{i}",
    task="short",
    question=f"What is {i}?",
    docs=tuple(
      Doc(
        title=f"T{d}",
        text=f"word{d} " * words,
        answers_found=(int(answerable and d == 2),),
      )
      for d in range(3)
    ),
    answers=(("word2",),),
    answerable=answerable,
    dataset=dataset,
  )


def stored(examples):
  kept = pool.Pool(0, in_memory=0)
  for item in examples:
    kept.add(item)
  kept.distinguish()
  return pool.Kept(kept, np.arange(len(kept)))


def prompts(examples, data=DATA, **kwargs):
  return pipeline.Prompts(examples, TOKENIZER, data, 3, 1, **kwargs)


def same(a, b):
  """Whether two batches hold the same prompts, whatever their width."""
  (first, examples), (second, others) = a, b
  width = min(first.tokens.shape[1], second.tokens.shape[1])
  return (
    examples == others
    and (first.key == second.key).all()
    and (first.length == second.length).all()
    and first.length.max() <= width
    and (first.tokens[:, :width] == second.tokens[:, :width]).all()
  )


def test_prompts_on_disk_are_those_in_memory():
  examples = [example(i, words=5 + i) for i in range(7)]
  eager, lazy = prompts(examples), prompts(stored(examples))
  assert len(lazy) == 7 and lazy.fits is None
  assert same(eager.take(0, 20), lazy.take(0, 20))  # over epochs
  assert same(eager.take(5, 3), lazy.take(5, 3))
  assert lazy.take(0, 2)[0].tokens.shape == (2, 400)
  # A prompt that loses passages.
  short = dataclasses.replace(DATA, max_prompt_len=250)
  a, b = prompts(examples, short).take(0, 7), prompts(stored(examples), short)
  assert any(len(e.docs) < 3 for e in a[1]) and same(a, b.take(0, 7))


def test_workers_change_nothing_and_what_is_read_ahead_is_bounded():
  examples = [example(i, words=5 + i) for i in range(30)]
  threads = dataclasses.replace(DATA, workers=3)
  one, many = prompts(stored(examples)), prompts(stored(examples), threads)
  # Forward, a jump back and one ahead, more and fewer at a time.
  for cursor, n in ((0, 4), (4, 4), (8, 6), (2, 4), (300, 40), (340, 2)):
    assert same(one.take(cursor, n), many.take(cursor, n))
  assert len(many._rows._ahead) <= 4
  assert same(
    prompts(examples).take(0, 30), prompts(examples, threads).take(0, 30)
  )


def test_an_example_that_lost_its_answer_gives_its_place_to_one_that_did_not():
  whole = len(pipeline.fit(example(0), TOKENIZER, DATA)[1])
  data = dataclasses.replace(DATA, max_prompt_len=whole)
  examples = [
    example(i, answerable=i % 2 == 0, words=10 + 10 * (i in (2, 4)))
    for i in range(8)
  ]
  pool_of = lambda choice: prompts(stored(examples), data, answerable=choice)
  even, any_ = pool_of("even"), pool_of("any")
  batch, shown = even.take(0, 8)
  assert sum(e.answerable for e in shown) == 4
  # e2 and e4 lose their third passage: e6, the next of the file, stands in.
  counts = collections.Counter(e.id for e in shown)
  assert counts == {"e0": 1, "e6": 3, "e1": 1, "e3": 1, "e5": 1, "e7": 1}
  assert len(set(batch.key.tolist())) == 8
  assert same(even.take(3, 4), pool_of("even").take(3, 4))
  assert sum(e.answerable for e in any_.take(0, 8)[1]) == 2
  alone = prompts(stored([examples[2]]), data, answerable="only")
  with pytest.raises(UserError, match="No prompt keeps an answer.*'e2'"):
    alone.take(0, 1)


def test_a_prompt_that_cannot_fit_is_an_error_when_it_is_taken():
  data = dataclasses.replace(DATA, too_long="error", workers=2)
  examples = [example(0), example(1, words=40)]
  taken = prompts(stored(examples), data)
  with pytest.raises(UserError, match="'e1'.*max_prompt_len=400"):
    taken.take(0, 2)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_mix_gives_datasets_their_shares_each_half_answerable(lazy):
  sizes = {"nq": 12, "asqa": 4, "eli5": 2}
  names = [name for name, n in sizes.items() for _ in range(n)]
  examples = [
    example(i, answerable=i % 2 == 0, dataset=name)
    for i, name in enumerate(names)
  ]
  source = config.Source(mix="nq=1,asqa=1,eli5=2")
  data = dataclasses.replace(DATA, train=source)
  make = lambda: prompts(
    stored(examples) if lazy else examples, data, answerable="even"
  )
  batch, shown = make().take(0, 40)
  assert collections.Counter((e.dataset, e.answerable) for e in shown) == {
    (name, flag): n
    for name, n in (("nq", 5), ("asqa", 5), ("eli5", 10))
    for flag in (True, False)
  }
  assert len(set(batch.key.tolist())) == 40
  assert same(make().take(13, 27), (
    dataclasses.replace(batch, **{k: v[13:] for k, v in vars(batch).items()}),
    shown[13:],
  ))  # fmt: skip


def test_threads_fit_many_in_order():
  fit = lambda e: (e, [len(e.id)])
  examples = [example(i) for i in range(50)]
  assert ondemand.fit_many(examples, fit, 0) == ondemand.fit_many(
    examples, fit, 4
  )
