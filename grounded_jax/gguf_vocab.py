"""The tokenizer that a GGUF file carries: its vocabulary, merges and template.

Two kinds of vocabulary are read: byte-level BPE ("gpt2", merges stored) and
SentencePiece BPE ("llama", merges ranked by the pieces' scores).  How text is
cut before merging has no more than a name in the file
(`tokenizer.ggml.pre`); a name that is not known here is refused, since another
cut gives other tokens.
"""

import pathlib
from typing import Any

import gguf
import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers, processors

from grounded_jax.records import UserError

_SPACE = "▁"  # SentencePiece's
_LETTERS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
  r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# By `tokenizer.ggml.pre`: the expression that cuts a text into words.
_WORDS = {
  "llama-bpe": _LETTERS.format(digits=r"\p{N}{1,3}"),
  "smaug-bpe": _LETTERS.format(digits=r"\p{N}{1,3}"),
  "qwen2": _LETTERS.format(digits=r"\p{N}"),
  "deepseek-r1-qwen": _LETTERS.format(digits=r"\p{N}"),
}
_GPT2 = ("default", "gpt-2", "smollm")  # the expression that ByteLevel has
_NFC = ("qwen2", "deepseek-r1-qwen")
_TYPES = gguf.TokenType


def read(path: pathlib.Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
  """The tokenizer, and its special tokens and chat template by role.

  The roles are those of `transformers`: bos_token, eos_token, pad_token,
  unk_token, chat_template; those that the file does not name are absent.

  Raises:
    UserError: a vocabulary, or a way to cut text, that is not known.
  """
  fields = gguf.GGUFReader(path).fields
  get = lambda name, default=None: (
    fields[name].contents() if name in fields else default
  )
  tokens = get("tokenizer.ggml.tokens")
  if not tokens:
    raise UserError(
      f"{path} holds no vocabulary: name a tokenizer's directory with"
      " model.tokenizer."
    )
  kind = get("tokenizer.ggml.model")
  builders = {"gpt2": _byte_level, "llama": _sentence_piece}
  if kind not in builders:
    raise UserError(
      f"{path} has a vocabulary of the kind {kind!r}; supported are"
      f" {', '.join(builders)}: name another with model.tokenizer."
    )
  kinds = get("tokenizer.ggml.token_type") or [_TYPES.NORMAL] * len(tokens)
  inner = builders[kind](path, tokens, get)
  _add_special(inner, tokens, kinds)
  named = _names(tokens, get)
  if get("tokenizer.ggml.add_bos_token", _starts(kind, get)):
    _prepend(inner, named.get("bos_token"))
  return inner, named


def _byte_level(path: pathlib.Path, tokens: list[str], get: Any):
  merges = [tuple(pair.split(" ", 1)) for pair in get("tokenizer.ggml.merges")]
  pre = get("tokenizer.ggml.pre", "default")
  if pre not in (*_WORDS, *_GPT2):
    raise UserError(
      f"{path} cuts text in the way {pre!r}; known are"
      f" {', '.join((*_GPT2, *_WORDS))}: name a tokenizer's directory with"
      " model.tokenizer."
    )
  vocab = {token: i for i, token in enumerate(tokens)}
  inner = tokenizers.Tokenizer(
    tokenizers.models.BPE(vocab, merges, ignore_merges=pre == "llama-bpe")
  )
  cuts = []
  if pre == "smollm":
    cuts.append(pre_tokenizers.Digits(individual_digits=True))
  if pre in _WORDS:
    words = tokenizers.Regex(_WORDS[pre])
    cuts.append(pre_tokenizers.Split(words, behavior="isolated"))
  bytes_ = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=pre not in _WORDS
  )
  inner.pre_tokenizer = pre_tokenizers.Sequence([*cuts, bytes_])
  inner.decoder = decoders.ByteLevel()
  if pre in _NFC:
    inner.normalizer = normalizers.NFC()
  return inner


def _sentence_piece(path: pathlib.Path, tokens: list[str], get: Any):
  del path
  scores = get("tokenizer.ggml.scores")
  vocab = {token: i for i, token in enumerate(tokens)}
  inner = tokenizers.Tokenizer(
    tokenizers.models.BPE(
      vocab,
      _ranked_merges(vocab, scores),
      unk_token=tokens[get("tokenizer.ggml.unknown_token_id", 0)],
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  prefix = get("tokenizer.ggml.add_space_prefix", True)
  steps = [normalizers.Replace(" ", _SPACE)]
  inner.normalizer = normalizers.Sequence(
    [normalizers.Prepend(_SPACE), *steps] if prefix else steps
  )
  undo = [
    decoders.Replace(_SPACE, " "),
    decoders.ByteFallback(),
    decoders.Fuse(),
  ]
  if prefix:
    undo.append(decoders.Strip(content=" ", left=1))
  inner.decoder = decoders.Sequence(undo)
  return inner


def _ranked_merges(
  vocab: dict[str, int], scores: list[float]
) -> list[tuple[str, str]]:
  """Every way to make a piece of two others, the best-scored piece first."""
  merges = []
  for piece, i in vocab.items():
    for cut in range(1, len(piece)):
      left, right = piece[:cut], piece[cut:]
      if left in vocab and right in vocab:
        merges.append((-scores[i], vocab[left], vocab[right], left, right))
  return [(left, right) for *_, left, right in sorted(merges)]


def _add_special(
  inner: tokenizers.Tokenizer, tokens: list[str], kinds: list[int]
) -> None:
  """Control tokens are special; user-defined ones only never split."""
  chosen = lambda wanted: [
    tokenizers.AddedToken(
      token, normalized=False, special=wanted == _TYPES.CONTROL
    )
    for token, kind in zip(tokens, kinds, strict=True)
    if kind == wanted
  ]
  inner.add_special_tokens(chosen(_TYPES.CONTROL))
  inner.add_tokens(chosen(_TYPES.USER_DEFINED))


def _names(tokens: list[str], get: Any) -> dict[str, str]:
  """The special tokens by role, and the chat template."""
  roles = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}
  ids = {
    f"{role}_token": get(f"tokenizer.ggml.{name}_token_id")
    for name, role in roles.items()
  }
  named = {role: tokens[i] for role, i in ids.items() if i is not None}
  template = get("tokenizer.chat_template")
  return named | ({"chat_template": template} if template else {})


def _starts(kind: str, get: Any) -> bool:
  """Whether a text starts with bos when the file does not say."""
  return kind == "llama" or get("tokenizer.ggml.pre") == "llama-bpe"


def _prepend(inner: tokenizers.Tokenizer, bos: str | None) -> None:
  if bos is not None:
    inner.post_processor = processors.TemplateProcessing(
      single=f"{bos} $A", special_tokens=[(bos, inner.token_to_id(bos))]
    )
