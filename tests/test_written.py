"""Written completions as arrays: what is taught, what is left out."""

import dataclasses
import functools

import numpy as np
import pytest
from test_pipeline import DATA, TOKENIZER, example

from grounded_jax import config, prompts, tokenizer, written
from grounded_jax.data import demonstrations
from grounded_jax.records import Dialogue, UserError


def taught(
  pool, sft, data=DATA, tokenizer=TOKENIZER, answerable="any"
) -> written.Written:
  """Demonstrations of the examples."""
  texts = functools.partial(
    demonstrations.make,
    group=sft.group,
    tags=data.tags,
    refusal=prompts.REFUSAL,
  )
  rows, fits = written.of_examples(pool, texts, tokenizer, data, answerable)
  return written.Written(rows, fits, data, "sft", sft, 0, 0)


def test_demonstrations_end_with_eos_and_weigh_what_is_taught_alone():
  pool = [example(i) for i in range(3)]
  sft = config.SFT(group=2, max_new_tokens=300)
  made = taught(pool, sft)
  batch = made.take(0, 4)
  assert batch.tokens.shape[:2] == batch.weight.shape[:2] == (4, 2)
  assert batch.tokens.shape[2] % 16 == 0
  for tokens, weight in zip(
    batch.tokens.reshape(8, -1), batch.weight.reshape(8, -1), strict=True
  ):
    n = int(weight.sum())
    np.testing.assert_array_equal(weight, np.arange(len(weight)) < n)
    assert tokens[n - 1] == TOKENIZER.eos[0]
    text = TOKENIZER.decode(tokens[:n].tolist())
    assert text.startswith("<think>") and text.endswith("[3].</answer>")
  again = taught(pool, sft).take(2, 2)
  np.testing.assert_array_equal(again.tokens, batch.tokens[2:])


def test_demonstrations_go_on_where_a_template_stopped():
  data = dataclasses.replace(DATA, chat=True)
  sft = config.SFT(max_new_tokens=300)
  batch = taught([example(0)], sft, data, Opened()).take(0, 1)
  said = TOKENIZER.decode(
    batch.tokens[0, 0, : int(batch.weight.sum())].tolist()
  )
  assert "<think>" not in said and "</think>" in said


class Opened(tokenizer.Bytes):
  """Its template begins every completion."""

  def prefill(self, thinking=True):
    return "<think>\n"


def test_what_does_not_go_on_where_a_template_stopped_is_refused():
  """Without tags the answer would stand in the open <think>."""
  data = dataclasses.replace(DATA, chat=True, tags=False)
  sft = config.SFT(max_new_tokens=300)
  with pytest.raises(UserError, match="begins every completion with '<think>'"):
    taught([example(0)], sft, data, Opened())


@pytest.mark.parametrize("written_out", ["<think>\nWhy.", "<think>Why."])
def test_a_prefill_is_written_once(written_out):
  data = dataclasses.replace(DATA, chat=True)
  row = Dialogue(id="r", turns=(("user", "q"),), completions=(written_out,))
  ((made,), _) = written.of_dialogues([row], Opened(), data)
  (ids,) = made.completions
  assert Opened().decode(ids) == "Why."
  assert ids[-1] == Opened.eos[0]


def test_a_template_s_refusal_names_the_row():
  class Strict(tokenizer.Bytes):
    def chat(self, messages, thinking=True):
      raise UserError("No system.")

  data = dataclasses.replace(DATA, chat=True)
  row = Dialogue(id="f line 3", turns=(("user", "q"),), completions=("a",))
  with pytest.raises(UserError, match="f line 3: No system"):
    written.of_dialogues([row], Strict(), data)


def test_demonstrations_keep_the_choice_of_answerables():
  pool = [example(0), example(1, words=20)]
  sft = config.SFT(max_new_tokens=300)
  make = lambda choice: taught(pool, sft, answerable=choice)
  assert (len(make("any")), len(make("only"))) == (2, 1)


def test_demonstrations_that_are_too_long_or_missing_are_counted():
  odd = dataclasses.replace(example(1), answers=(("unsaid",),))
  pool = [example(0), odd, example(2, words=11)]
  sft = config.SFT(max_new_tokens=300)
  made = taught(pool, sft)
  assert (len(made), made.without, made.too_long) == (2, 1, 0)
  with pytest.raises(UserError, match="sft.max_new_tokens=20"):
    short = config.SFT(max_new_tokens=20)
    taught(pool, short)
