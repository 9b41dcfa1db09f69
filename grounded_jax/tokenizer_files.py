"""A tokenizer's files, written beside exported weights.

Those of a Hugging Face directory are copied byte for byte; others are made:
from a GGUF's vocabulary, or from one of our own tokenizers.
"""

import json
import pathlib
import shutil

from grounded_jax import config, files
from grounded_jax import tokenizer as tokenizer_lib

_CONFIG = "tokenizer_config.json"
_NAMES = (
  "tokenizer.json",
  _CONFIG,
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "tokenizer.model",
  "chat_template.jinja",
  "chat_template.json",
)


def save(cfg: config.Model, folder: pathlib.Path) -> None:
  """Writes the tokenizer of `cfg`, its chat template included."""
  source = directory(cfg)
  if source is not None and (source / _CONFIG).is_file():
    for name in _NAMES:
      if (source / name).is_file():
        shutil.copyfile(source / name, folder / name)
    return
  if cfg.tokenizer == "bytes":
    _bytes().save_pretrained(folder)
  else:
    tokenizer_lib.load(cfg).save(folder)
  # As every release of transformers calls it, and vLLM.
  path = folder / _CONFIG
  settings = json.loads(path.read_text("utf-8"))
  settings["tokenizer_class"] = "PreTrainedTokenizerFast"
  path.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def directory(cfg: config.Model) -> pathlib.Path | None:
  """The Hugging Face directory that the tokenizer is read from, if it is."""
  name = cfg.tokenizer or cfg.path
  if name in ("", "bytes", "world") or name.startswith("warmstart:"):
    return None
  found = files.find(name, weights=False)
  return found.path if found.kind == "hf" else None


def _bytes():
  """`tokenizer.Bytes` as a byte-level BPE without merges."""
  import tokenizers
  from transformers import PreTrainedTokenizerFast  # a second, only when used

  vocab = {letter: byte for byte, letter in enumerate(_letters())}
  inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
  inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  inner.decoder = tokenizers.decoders.ByteLevel()
  # In the order of their ids, 256 to 258.
  named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
  inner.add_special_tokens(list(named.values()))
  return PreTrainedTokenizerFast(tokenizer_object=inner, **named)


def _letters() -> list[str]:
  """The letter by which byte-level BPE writes each byte.

  Printable ones of Latin-1 stand for themselves, the others, in their order,
  for the code points from 256 on.
  """
  shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
  others = iter(range(256, 512))
  return [chr(b) if b in shown else chr(next(others)) for b in range(256)]
