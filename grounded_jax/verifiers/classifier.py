"""Any Hugging Face model that classifies (premise, hypothesis) pairs.

It runs in PyTorch: `pip install 'grounded_jax[nli]'`.  Yes is when the label
of entailment is the likeliest.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from grounded_jax import config, files
from grounded_jax.records import UserError, reading
from grounded_jax.verifiers import batches

_ENTAILED = ("entailment", "entail", "1", "supported")


class Classifier:
  """Asks a classifier, the longest pairs first.

  A pair beyond what the model reads has its premise cut; one whose hypothesis
  leaves a premise no room is not entailed.  Both are counted, and said.
  """

  def __init__(self, cfg: config.Verifier):
    try:
      import torch
      import transformers
    except ImportError as error:
      raise UserError(
        f"A verifier of kind classifier needs {error.name}: run `pip install"
        " 'grounded_jax[nli]'`, or use kind t5 or lexical."
      ) from None
    found = files.find(cfg.path)
    if found.kind != "hf":
      raise UserError(f"{found.path} is no directory of a classifier.")
    with reading(f"The classifier {found.path}", "fetch its files again"):
      settings = transformers.AutoConfig.from_pretrained(found.path)
      self._entailed = label(settings.id2label, str(found.path))
      _check_architecture(settings.architectures, str(found.path))
      self._tokenizer = transformers.AutoTokenizer.from_pretrained(found.path)
      on_gpu = torch.cuda.is_available()
      dtype = cfg.dtype or ("bfloat16" if on_gpu else "float32")
      self._model = (
        transformers.AutoModelForSequenceClassification.from_pretrained(
          found.path, dtype=dtype
        )
        .eval()
        .to("cuda" if on_gpu else "cpu")
      )
    self._limit = _limit(settings.to_dict(), self._tokenizer.model_max_length)
    self._batch_tokens = cfg.batch_tokens
    self.cut = 0  # premises that were shortened
    self.unread = 0  # pairs whose hypothesis left no room
    self.name = f"classifier({files.label(cfg.path)}, {dtype})"

  def __call__(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[bool]:
    """For each pair, whether entailment is the likeliest label."""
    return [
      max(range(len(p)), key=p.__getitem__) == self._entailed if p else False
      for p in self._ask(premises, hypotheses)
    ]

  def scores(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[float]:
    """For each pair, the probability of entailment."""
    asked = self._ask(premises, hypotheses)
    return [p[self._entailed] if p else 0.0 for p in asked]

  def _ask(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[list[float]]:
    """Each pair's probability of every label; none if it was not read."""
    import torch

    inputs = self._encode(premises, hypotheses)
    out: list[list[float]] = [[] for _ in inputs]
    read = [i for i, item in enumerate(inputs) if item]
    lengths = [len(inputs[i]["input_ids"]) for i in read]
    for planned in batches.plan(lengths, self._batch_tokens):
      chosen = [read[i] for i in planned.texts]
      batch = self._tokenizer.pad(
        [inputs[i] for i in chosen], return_tensors="pt", verbose=False
      ).to(self._model.device)
      with torch.inference_mode():
        logits = self._model(**batch).logits.float()
      rows = torch.softmax(logits, dim=-1).tolist()
      for i, row in zip(chosen, rows, strict=True):
        out[i] = row
    return out

  def _encode(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[Mapping[str, list[int]]]:
    """The model's input of each pair; {} where the hypothesis is too long."""
    special = self._tokenizer.num_special_tokens_to_add(pair=True)
    out, cut, unread = [], 0, 0
    for premise, hypothesis in zip(premises, hypotheses, strict=True):
      item = self._tokenizer(premise, hypothesis, verbose=False)
      if self._limit and len(item["input_ids"]) > self._limit:
        own = self._tokenizer(
          hypothesis, add_special_tokens=False, verbose=False
        )["input_ids"]
        if len(own) + special >= self._limit:
          unread += 1
          out.append({})
          continue
        cut += 1
        item = self._tokenizer(
          premise, hypothesis, truncation="only_first", max_length=self._limit
        )
      out.append(item)
    if cut or unread:
      warnings.warn(
        f"{self.name} reads {self._limit} tokens: of {len(out)} pairs {cut} had"
        f" their premise cut, {unread} had too long a hypothesis and count as"
        " not entailed.",
        stacklevel=4,
      )
    self.cut += cut
    self.unread += unread
    return out


def label(id2label: Mapping[int, str], where: str) -> int:
  """The index of the label that means entailment.

  Raises:
    UserError: none of the labels does, or more than one.
  """
  found = [
    int(i) for i, name in id2label.items() if name.strip().lower() in _ENTAILED
  ]
  if len(found) != 1:
    has = ", ".join(map(str, id2label.values()))
    raise UserError(
      f"{where} has the labels {has}: exactly one must be"
      f" {', '.join(_ENTAILED[:-1])} or {_ENTAILED[-1]}; name it so in id2label"
      " of its config.json."
    )
  return found[0]


def _check_architecture(names: Sequence[str] | None, where: str) -> None:
  """Refuses a model whose classifying part would be made up at random."""
  name = (names or ["none stated"])[0]
  if not name.endswith("ForSequenceClassification"):
    raise UserError(
      f"{where} is of the architecture {name}: a verifier of kind classifier is"
      " one ...ForSequenceClassification; a T5 that answers 1 or 0 is of kind"
      " t5."
    )


def _limit(settings: Mapping[str, Any], stated: int) -> int:
  """The tokens that a model reads; 0 = any number.

  Those of RoBERTa count positions from behind the padding's.
  """
  positions = settings.get("max_position_embeddings") or 0
  if positions and "roberta" in settings["model_type"]:
    positions -= settings["pad_token_id"] + 1
  known = [n for n in (positions, stated) if 0 < n < 10**9]
  return min(known, default=0)
