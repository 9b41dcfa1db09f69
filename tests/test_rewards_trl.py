"""The rewards as TRL takes them: called by hand, and by its trainer."""

import dataclasses

import pytest
from reward_cases import PARIS, REFUSAL, ROME, Words, batch, laid_out

from configs import rewards as presets
from grounded_jax import rewards
from grounded_jax.records import UserError
from grounded_jax.rewards import trl as rewards_trl

PAPER = presets.paper(refusal=True)
MODERN = presets.modern(refusal=True)


@pytest.mark.parametrize("chat", [False, True])
def test_trl_functions_sum_to_the_same_reward(chat):
  examples, _ = batch()
  answers = [f"{PARIS} [1].", f"{PARIS} [1][2].", REFUSAL, ""]
  texts = [f"<think>a</think><answer>{a}</answer>" for a in answers]
  completions = [
    [{"role": "assistant", "content": written}] if chat else written
    for written in texts
  ]
  ids = [[1] * n for n in (100, 500, 3, 512)]
  columns = {
    "question": [e.question for e in examples],
    "docs": [[dataclasses.asdict(d) for d in e.docs] for e in examples],
    "answers": [[list(a) for a in e.answers] for e in examples],
    "task": [e.task for e in examples],
  }
  verifier = Words()
  functions = rewards_trl.reward_functions(MODERN, verifier, max_tokens=512)
  assert [f.__name__ for f in functions][0] == "reward_tag_count"
  got = [
    function(
      prompts=[""] * 4,
      completions=completions,
      completion_ids=ids,
      trainer_state=None,
      **columns,
    )
    for function in functions
  ]
  assert len(verifier.calls) == 1
  want = rewards.score_batch(
    examples,
    [
      rewards.completion(t, tokens=len(i))
      for t, i in zip(texts, ids, strict=True)
    ],
    MODERN,
    Words(),
    max_tokens=512,
  )
  totals = [sum(parts) for parts in zip(*got, strict=True)]
  assert totals == pytest.approx([score.total for score in want])


def test_trl_functions_name_a_missing_column():
  function = rewards_trl.reward_functions(PAPER, Words())[0]
  with pytest.raises(UserError, match="no column 'docs'"):
    function(prompts=[""], completions=["x"], question=["q"])


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({}, "Row 0 of the batch, doc 1 has no 'answers_found'"),
    ({"answers_found": None}, "doc 1 has no 'answers_found'"),
    ({"answers_found": [1, 0]}, "doc 1 has 2 answers_found for 1 answers"),
    ({"answers_found": [1]}, "Row 0 of the batch: the task is 'not stated'"),
  ],
)
def test_trl_functions_name_the_row_that_cannot_be_scored(changes, words):
  function = rewards_trl.reward_functions(PAPER, Words())[0]
  columns = {
    "question": ["q"],
    "answers": [[["a"]]],
    "docs": [[{"title": "t", "text": "x"} | changes]],
  }
  with pytest.raises(UserError, match=words):
    function(prompts=[""], completions=["x"], **columns)


def test_trl_functions_refuse_an_answer_without_a_way_to_write_it():
  function = rewards_trl.reward_functions(PAPER, Words())[0]
  docs = [[{"title": "t", "text": "x", "answers_found": [1]}]]
  columns = {"question": ["q"], "answers": [[[]]], "docs": docs}
  with pytest.raises(UserError, match="Row 0 .* an entry of 'answers' is empt"):
    function(prompts=[""], completions=["x"], task=["claims"], **columns)


def test_trl_functions_know_a_dataset_however_it_is_written():
  function = rewards_trl.reward_functions(PAPER, Words())[0]
  docs = [[{"title": "t", "text": "x", "answers_found": [1]}]]
  columns = {"question": ["q"], "answers": [[["a"]]], "docs": docs}
  got = function(prompts=[""], completions=["x"], dataset=["ASQA"], **columns)
  assert len(got) == 1


# Random weights write a random word after another: with whole statements as
# words, and whole completions where the layout is asked for, the rewards of a
# few dozen differ in every part.
STATEMENTS = ("[1]", "[2]", "[1][5]", ".", PARIS, ROME, "Nothing [3].", REFUSAL)
COMPLETIONS = tuple(
  laid_out(said)
  for said in (f"{PARIS} [1].", f"{PARIS} [2].", f"{ROME} [2].", ROME, REFUSAL)
)


def policy(folder, words):
  """A Llama with random weights over these words, and its tokenizer."""
  tokenizers = pytest.importorskip("tokenizers")
  transformers = pytest.importorskip("transformers")
  special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
  names = [*special.values(), *words]
  model = tokenizers.models.WordLevel(
    {name: i for i, name in enumerate(names)}, unk_token="<unk>"
  )
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.save(str(folder / "tokenizer.json"))
  wrapped = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(folder / "tokenizer.json"),
    padding_side="left",
    **special,
  )
  return transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=len(names),
      hidden_size=16,
      intermediate_size=32,
      num_hidden_layers=1,
      num_attention_heads=2,
      num_key_value_heads=1,
      pad_token_id=0,
      eos_token_id=1,
      bos_token_id=None,
    )
  ), wrapped


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize(
  ("words", "length"), [(COMPLETIONS, 2), (STATEMENTS, 24)]
)
def test_two_steps_of_trls_trainer_log_the_rewards_that_are_ours(
  tmp_path, words, length
):
  torch = pytest.importorskip("torch")
  trl = pytest.importorskip("trl")
  datasets = pytest.importorskip("datasets")
  torch.manual_seed(0)
  tags = words is COMPLETIONS
  cfg = dataclasses.replace(MODERN, tags=tags, overlong=length // 2)
  examples, _ = batch()
  seen, verifier = [], Words()

  def spy(prompts, completions, completion_ids, **columns):
    """Pays nothing; keeps what the other functions are called with."""
    seen.append((completions, completion_ids, columns["question"]))
    return [0.0] * len(prompts)

  model, tokenizer = policy(tmp_path, words)
  trainer = trl.GRPOTrainer(
    model=model,
    processing_class=tokenizer,
    reward_funcs=[
      *rewards_trl.reward_functions(cfg, verifier, max_tokens=length),
      spy,
    ],
    args=trl.GRPOConfig(
      output_dir=str(tmp_path / "run"),
      per_device_train_batch_size=16,
      num_generations=8,
      max_completion_length=length,
      max_steps=2,
      logging_steps=1,
      learning_rate=1e-2,
      save_strategy="no",
      report_to=[],
      use_cpu=True,
      bf16=False,
      seed=0,
    ),
    train_dataset=datasets.Dataset.from_list(
      [
        {
          "prompt": f"Question {i}",
          "question": str(i),
          "docs": [dataclasses.asdict(doc) for doc in e.docs],
          "answers": [list(aliases) for aliases in e.answers],
          "task": e.task,
        }
        for i, e in enumerate(examples)
      ]
    ),
  )
  trainer.train()

  logged = [row for row in trainer.state.log_history if "reward" in row]
  assert len(logged) == len(seen) == len(verifier.calls) == 2
  paid = set()
  for row, (texts, ids, questions) in zip(logged, seen, strict=True):
    scores = rewards.score_batch(
      [dataclasses.replace(examples[int(q)], question=q) for q in questions],
      [
        rewards.completion(text, tokens=len(tokens), tags=tags)
        for text, tokens in zip(texts, ids, strict=True)
      ],
      cfg,
      Words(),
      max_tokens=length,
    )
    mean = lambda values: sum(values) / len(values)
    assert row["reward"] == pytest.approx(mean([s.total for s in scores]))
    for part in rewards.PARTS:
      assert row[f"rewards/reward_{part}/mean"] == pytest.approx(
        mean([s.parts[part] for s in scores]), abs=1e-6
      )
    for score in scores:
      paid |= {part for part, points in score.parts.items() if points}
  # What all agree on was paid at least once.
  wanted = {"tag_count", "format", "match", "citation", "refusal", "overlong"}
  assert paid >= wanted
