"""Chat templates of several families: nothing is lost, nothing is doubled."""

import json

import pytest
import tiny
import tokenizers

from grounded_jax import config, main, prompts, tokenizer
from grounded_jax.records import Doc, Example, UserError

# In the manner of each family, in our own words.
LLAMA3 = (
  "{{ bos_token }}{% for m in messages %}<|head|>{{ m['role'] }}<|body|>\n\n"
  "{{ m['content'] | trim }}<|eot|>{% endfor %}"
  "{% if add_generation_prompt %}<|head|>assistant<|body|>\n\n{% endif %}"
)
QWEN3 = (
  "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
  "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
  "<|im_start|>assistant\n{% if enable_thinking is defined and"
  " enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
R1 = (
  "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
  "{{ m['content'] }}{% elif m['role'] == 'user' %}<|User|>{{ m['content'] }}"
  "{% else %}<|Assistant|>{{ m['content'].split('</think>') | last }}"
  "<eos>{% endif %}{% endfor %}{% if add_generation_prompt %}"
  "<|Assistant|><think>\n{% endif %}"
)
GEMMA2 = (
  "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
  "{{ raise_exception('System role not supported') }}{% endif %}"
  "{% for m in messages %}<start_of_turn>"
  "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
  "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
  "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
DEAF = (
  "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"
)
MUTE = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
SPECIAL = (
  *("<bos>", "<eos>", "<|head|>", "<|body|>", "<|eot|>"),
  *("<|im_start|>", "<|im_end|>", "<|User|>", "<|Assistant|>"),
  *("<start_of_turn>", "<end_of_turn>"),
)
THINK = ("<think>", "</think>")  # tokens of their own, but shown
BOS = 256


def save(folder, template="", adds_bos=True):
  """A byte-level tokenizer with the special tokens of every family."""
  letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  inner = tokenizers.Tokenizer(
    tokenizers.models.BPE({x: i for i, x in enumerate(letters)}, [])
  )
  inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  inner.decoder = tokenizers.decoders.ByteLevel()
  inner.add_special_tokens(list(SPECIAL))
  inner.add_tokens([tokenizers.AddedToken(x, special=False) for x in THINK])
  if adds_bos:
    inner.post_processor = tokenizers.processors.TemplateProcessing(
      single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
  inner.save(str(folder / "tokenizer.json"))
  settings = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "extra_special_tokens": list(SPECIAL[2:]),
  }
  if template:
    settings["chat_template"] = template
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  return tokenizer.load(config.Model(tokenizer=str(folder)))


USER = {"role": "user", "content": "Who sells salt?"}
SYSTEM = {"role": "system", "content": "Be brief."}
EVERY = [
  pytest.param(LLAMA3, 1, "", "<|eot|>", id="llama3"),
  pytest.param(QWEN3, 0, "", "<|im_end|>", id="qwen3"),
  pytest.param(R1, 1, "<think>\n", "<eos>", id="r1"),
  pytest.param(GEMMA2, 1, "", "<end_of_turn>", id="gemma2"),
  pytest.param("", 1, "", "<eos>", id="base"),
]


@pytest.mark.parametrize(("template", "starts", "prefill", "end"), EVERY)
def test_bos_stands_once_where_the_family_has_it(
  tmp_path, template, starts, prefill, end
):
  # Qwen's tokenizers add none; those of the others do, to bare texts.
  got = save(tmp_path, template, adds_bos=bool(starts))
  for messages in ([USER], [SYSTEM, USER]):
    ids = got.encode(got.chat(messages))
    assert ids.count(BOS) == starts
    assert ids[:1] == [BOS] or not starts
  assert got.prefill() == prefill
  assert got.encode(end)[0] in got.eos


@pytest.mark.parametrize(("template", "starts", "prefill", "end"), EVERY)
def test_no_message_is_lost(tmp_path, template, starts, prefill, end):
  del starts, prefill, end
  text = save(tmp_path, template).chat([SYSTEM, USER])
  assert 0 <= text.index(SYSTEM["content"]) < text.index(USER["content"])
  assert text.count(SYSTEM["content"]) == text.count(USER["content"]) == 1


@pytest.mark.parametrize("template", [GEMMA2, DEAF], ids=["refused", "dropped"])
def test_a_system_message_without_a_place_opens_the_users(tmp_path, template):
  got = save(tmp_path, template)
  both = {"role": "user", "content": "Be brief.\n\nWho sells salt?"}
  assert got.chat([SYSTEM, USER]) == got.chat([both])
  with pytest.raises(UserError, match="must be followed by a user's"):
    got.chat([SYSTEM])


@pytest.mark.parametrize(
  ("template", "message"),
  [
    (MUTE, "leaves out what the user says: set data.chat=false"),
    ("{% for %}", "cannot be rendered"),
    ("{{ raise_exception('no') }}", "cannot be rendered .no."),
  ],
)
def test_a_template_that_does_not_work_is_one_sentence(
  tmp_path, template, message
):
  with pytest.raises(UserError, match=message):
    save(tmp_path, template).chat([USER])


def test_thinking_is_switched_for_qwen3_and_not_for_others(tmp_path):
  qwen = save(tmp_path, QWEN3, adds_bos=False)
  on, off = (qwen.chat([USER], thinking=t) for t in (True, False))
  assert off == on + "<think>\n\n</think>\n\n"
  assert qwen.prefill(True) == qwen.prefill(False) == ""
  r1 = save(tmp_path, R1)
  assert r1.chat([USER], thinking=False) == r1.chat([USER])
  assert r1.prefill(False) == "<think>\n"


def test_think_tags_survive_decoding(tmp_path):
  got = save(tmp_path, R1)
  text = "<think>so</think><answer>Ada [1]</answer>"
  assert got.decode([*got.encode(text), *got.eos]) == text


@pytest.mark.parametrize(("template", "starts", "prefill", "end"), EVERY)
def test_prompt_mode_prints_text_and_count(
  tmp_path, monkeypatch, capsys, template, starts, prefill, end
):
  del end
  monkeypatch.setattr(
    main,
    "load_experiment",
    lambda location: tiny.experiment(location, [tiny.stage("first")]),
  )
  path = tiny.write_records(tmp_path / "records.jsonl")
  got = save(tmp_path, template, adds_bos=bool(starts))
  argv = [
    *("--mode=prompt", f"--config={path}", "--count=1"),
    f"--config.model.tokenizer={tmp_path}",
  ]
  assert main.main(argv) == 0
  captured = capsys.readouterr()
  (shown,) = json.loads(captured.out)
  data = config.Data(style="tiny")
  example = Example(
    id="Ada-0",
    task="short",
    question="What sells Ada?",
    docs=(
      Doc(title="Ada", text="Ada sells salt."),
      Doc(title="Sea", text="It is wet."),
    ),
    answers=(("salt",),),
    answerable=True,
  )
  assert shown["prompt"] == prompts.render(data, example, got.chat)
  assert shown["tokens"] == len(got.encode(shown["prompt"]))
  assert shown["prefill"] == prefill
  assert shown["prompt"] in captured.err
