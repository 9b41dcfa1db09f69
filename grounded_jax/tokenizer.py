"""Text to token ids and back, and a model's own chat layout.

A tokenizer comes from the files beside the weights (Hugging Face or GGUF), or
is one of ours: "bytes" (UTF-8), "world" (the embedded world's pieces).
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jinja2

from grounded_jax import config, files, gguf_vocab
from grounded_jax.records import UserError, reading

Messages = Sequence[dict[str, str]]

OPEN = "<think>"
CLOSE = "</think>"
# An assistant turn whose words no template holds: what follows ends a turn.
_PROBE = "qzx"


@runtime_checkable
class Tokenizer(Protocol):
  """What the rest of the package asks of a tokenizer."""

  bos: int | None  # what the model was taught to start with, if anything
  eos: tuple[int, ...]  # any of these ends a completion
  pad: int  # fills arrays; never looked at
  vocab: int  # ids are below it; the model's vocabulary may be larger
  start: str  # what a text without a template begins with: a BOS, or nothing

  def encode(self, text: str) -> list[int]:
    """The ids of `text`, no special token added (the text may hold some)."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """The text of `ids`, special tokens left out."""
    ...

  def chat(self, messages: Messages, thinking: bool = True) -> str:
    """The prompt as text, up to where the assistant's turn begins."""
    ...

  def prefill(self, thinking: bool = True) -> str:
    """What the template wrote of the completion: an open <think>, or ""."""
    ...

  def end(self, chat: bool) -> int:
    """What is written after a completion: in a chat, what closes a turn."""
    ...


class Bytes:
  """UTF-8 bytes as ids 0..255, then beginning, end and padding."""

  bos = 256
  eos = (257,)
  pad = 258
  vocab = 259
  start = ""

  def encode(self, text: str) -> list[int]:
    return list(text.encode("utf-8"))

  def decode(self, ids: Sequence[int]) -> str:
    return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")

  def chat(self, messages: Messages, thinking: bool = True) -> str:
    del thinking
    return plain(messages)

  def prefill(self, thinking: bool = True) -> str:
    del thinking
    return ""

  def end(self, chat: bool) -> int:
    del chat
    return self.eos[0]


class HuggingFace:
  """A `transformers` tokenizer with its chat template, if it has one."""

  def __init__(self, inner, generation_eos: Sequence[int] = ()):
    self._inner = inner
    self.bos = inner.bos_token_id
    self.vocab = len(inner)
    ends = dict.fromkeys(generation_eos)
    if inner.eos_token_id is not None:
      ends[inner.eos_token_id] = None
    self._turn = self._turn_end() if inner.chat_template else []
    ends |= dict.fromkeys(self._turn)
    if not ends:
      raise UserError(
        f"The tokenizer {inner.name_or_path} names no end-of-sequence token:"
        " add eos_token to its tokenizer_config.json."
      )
    self.eos = tuple(ends)
    # A base model wants the token that it was taught to start with.
    first = inner.encode("", add_special_tokens=True)[:1]
    starts = bool(first) and first[0] == inner.bos_token_id
    self.start = inner.bos_token if starts else ""
    pad = inner.pad_token_id
    self.pad = self.eos[0] if pad is None else pad

  def encode(self, text: str) -> list[int]:
    return self._inner.encode(text, add_special_tokens=False)

  def decode(self, ids: Sequence[int]) -> str:
    return self._inner.decode(
      list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )

  def chat(self, messages: Messages, thinking: bool = True) -> str:
    if not self._inner.chat_template:
      return self.start + plain(messages)
    return self._render(messages, thinking)

  def prefill(self, thinking: bool = True) -> str:
    if not self._inner.chat_template:
      return ""
    messages = [{"role": "user", "content": _PROBE}]
    turn = self._apply(messages, thinking, True).rpartition(_PROBE)[2]
    before, tag, after = turn.rpartition(OPEN)
    del before
    return tag + after if tag and CLOSE not in after else ""

  def end(self, chat: bool) -> int:
    if chat and self._turn:
      return self._turn[0]
    own = self._inner.eos_token_id
    return self.eos[0] if own is None else own

  def save(self, folder: pathlib.Path) -> None:
    """Writes the files that `transformers` reads."""
    self._inner.save_pretrained(folder)

  def _render(self, messages: Messages, thinking: bool) -> str:
    """The prompt, in which every message stands.

    A template without a place for the system's message refuses it (Gemma) or
    leaves it out: it then opens the first user's.
    """
    try:
      written = self._apply(messages, thinking, True)
    except UserError:
      if messages[0]["role"] != "system":
        raise
      return self._render(_folded(messages), thinking)
    for message in messages:
      if message["role"] == "assistant":  # templates cut old thoughts
        continue
      if message["content"].strip() not in written:
        if message["role"] == "system":
          return self._render(_folded(messages), thinking)
        raise UserError(
          f"The chat template of {self._inner.name_or_path} leaves out what the"
          f" {message['role']} says: set data.chat=false, or mend it."
        )
    return written

  def _apply(self, messages: Messages, thinking: bool, generate: bool) -> str:
    try:
      return self._inner.apply_chat_template(
        list(messages),
        tokenize=False,
        add_generation_prompt=generate,
        enable_thinking=thinking,
      )
    except jinja2.TemplateError as error:
      raise UserError(
        f"The chat template of {self._inner.name_or_path} cannot be rendered"
        f" ({error}): set data.chat=false, or mend it."
      ) from None

  def _turn_end(self) -> list[int]:
    """The special token that closes an assistant's turn, if one does."""
    messages = [
      {"role": "user", "content": "a"},
      {"role": "assistant", "content": _PROBE},
    ]
    rest = self._apply(messages, True, False).rpartition(_PROBE)[2]
    first = self.encode(rest.strip())[:1]
    return [i for i in first if i in self._inner.all_special_ids]


def _folded(messages: Messages) -> Messages:
  """The messages, what the system says put before what the user says."""
  system, *rest = messages
  if not rest or rest[0]["role"] != "user":
    raise UserError("A system's message must be followed by a user's.")
  content = f"{system['content']}\n\n{rest[0]['content']}"
  return [{"role": "user", "content": content}, *rest[1:]]


def plain(messages: Messages) -> str:
  """What the messages say, without a template."""
  return "\n\n".join(message["content"] for message in messages)


def load(cfg: config.Model) -> Tokenizer:
  """The tokenizer that `cfg.tokenizer` names, or the one beside the weights.

  Raises:
    UserError: no such files; the sentence says how to get them.
  """
  if cfg.tokenizer == "bytes":
    return Bytes()
  if cfg.tokenizer == "world":
    return _from_json(files.WARMSTART)
  name = cfg.tokenizer or cfg.path
  if not name:
    raise UserError(
      "model.tokenizer is empty and there are no weights to read it beside: set"
      " model.tokenizer to bytes, world or a directory."
    )
  if not cfg.tokenizer and name.startswith("warmstart:"):
    return _from_json(files.WARMSTART)
  found = files.find(name, weights=False)
  with reading(f"The tokenizer of {found.path}", "fetch its files again"):
    return _READERS[found.kind](found.path)


def check(tokenizer: Tokenizer, decoder: config.Decoder) -> None:
  """Raises UserError if the model has no embedding for some token id."""
  if tokenizer.vocab > decoder.vocab:
    raise UserError(
      f"The tokenizer has {tokenizer.vocab} tokens but the model only"
      f" {decoder.vocab}: model.tokenizer and model.path do not fit together."
    )


def _from_gguf(path: pathlib.Path) -> HuggingFace:
  from transformers import PreTrainedTokenizerFast  # a second, only when used

  inner, named = gguf_vocab.read(path)
  return HuggingFace(PreTrainedTokenizerFast(tokenizer_object=inner, **named))


def _from_directory(path: pathlib.Path) -> HuggingFace:
  if not (path / "tokenizer_config.json").is_file():
    return _from_json(path)
  from transformers import AutoTokenizer  # a second, only when used

  try:
    inner = AutoTokenizer.from_pretrained(path, local_files_only=True)
  except (OSError, ValueError) as error:
    raise UserError(
      f"transformers cannot read the tokenizer in {path}"
      f" ({str(error).splitlines()[0]}): it needs the tokenizer.json and"
      " tokenizer_config.json of the model."
    ) from None
  return HuggingFace(inner, _generation_eos(path))


def _from_json(path: pathlib.Path) -> HuggingFace:
  """A bare tokenizer.json; the names of its special tokens are in it."""
  file = path / "tokenizer.json"
  if not file.is_file():
    raise UserError(
      f"There is no tokenizer.json in {path}: put the model's own there, or"
      " name another directory with model.tokenizer."
    )
  from transformers import PreTrainedTokenizerFast  # a second, only when used

  special = {
    entry["content"]
    for entry in json.loads(file.read_text("utf-8")).get("added_tokens", ())
    if entry["special"]
  }
  names = {
    f"{role}_token": token
    for role in ("bos", "eos", "pad", "unk")
    for token in (f"<{role}>", f"<|{role}|>")
    if token in special
  }
  inner = PreTrainedTokenizerFast(tokenizer_file=str(file), **names)
  return HuggingFace(inner, _generation_eos(path))


def _generation_eos(path: pathlib.Path) -> tuple[int, ...]:
  file = path / "generation_config.json"
  if not file.is_file():
    return ()
  value = json.loads(file.read_text("utf-8")).get("eos_token_id")
  if value is None:
    return ()
  return tuple(map(int, value if isinstance(value, list) else [value]))


_READERS = {"gguf": _from_gguf, "hf": _from_directory}
