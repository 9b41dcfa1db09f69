"""The pieces that a T5 reads: its own SentencePiece tokenizer."""

import pathlib
from collections.abc import Sequence

import tokenizers

from grounded_jax.records import UserError

_FAST, _SLOW = "tokenizer.json", "spiece.model"
_END = "</s>"


class Pieces:
  """Texts as ids that end with </s>, never cut.

  Attributes:
    one: the id of "1", the answer that says yes.
    zero: the first id of "0", whose other ids no one decoder step sees.
    vocab: ids are below it.
  """

  def __init__(self, path: pathlib.Path):
    read = _fast if (path / _FAST).is_file() else _slow
    self._encode, self.vocab, self._end = read(path)
    one, zero = (ids[:-1] for ids in self(["1", "0"]))
    if len(one) != 1 or one[:1] == zero[:1]:
      raise UserError(
        f'The tokenizer in {path} has no piece of its own for the answer "1":'
        " the model is no T5 that answers 1 or 0."
      )
    self.one, self.zero = one[0], zero[0]

  def __call__(self, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text."""
    # What is no Unicode (half of a surrogate pair) becomes "?".
    clean = [t.encode("utf-8", "replace").decode("utf-8") for t in texts]
    out = self._encode(clean)
    return [
      ids if ids[-1:] == [self._end] else [*ids, self._end] for ids in out
    ]


def _fast(path: pathlib.Path):
  inner = tokenizers.Tokenizer.from_file(str(path / _FAST))
  inner.no_truncation()
  inner.no_padding()
  end = inner.token_to_id(_END)
  if end is None:
    raise UserError(f"{path / _FAST} has no {_END}: it is no T5's tokenizer.")
  encode = lambda texts: [e.ids for e in inner.encode_batch(texts)]
  return encode, inner.get_vocab_size(), end


def _slow(path: pathlib.Path):
  if not (path / _SLOW).is_file():
    raise UserError(
      f"{path} has neither {_FAST} nor {_SLOW}: put the model's own there."
    )
  import sentencepiece  # only where a model has nothing else

  inner = sentencepiece.SentencePieceProcessor(model_file=str(path / _SLOW))
  return inner.encode, inner.get_piece_size(), inner.piece_to_id(_END)
