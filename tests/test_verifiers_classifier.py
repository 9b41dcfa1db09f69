"""Classifiers of Hugging Face as verifiers, with a tiny random BERT."""

import json
import sys
import warnings

import numpy as np
import pytest
import t5_cases as cases

from grounded_jax import config, verifiers
from grounded_jax.records import UserError
from grounded_jax.verifiers import classifier

LABELS = {0: "contradiction", 1: "neutral", 2: "ENTAILMENT"}


@pytest.mark.parametrize(
  ("names", "index"),
  [
    (["contradiction", "neutral", "entailment"], 2),
    (["entail", "not_entail"], 0),
    (["0", "1"], 1),
    (["Refuted", " Supported "], 1),
    (["entailment", "not_entailment"], 0),
  ],
)
def test_the_label_of_entailment_is_found_by_its_name(names, index):
  assert classifier.label(dict(enumerate(names)), "DIR") == index


@pytest.mark.parametrize(
  "names", [["LABEL_0", "LABEL_1"], ["entail", "entailment"], ["neutral"]]
)
def test_labels_that_do_not_tell_are_listed(names):
  with pytest.raises(UserError) as caught:
    classifier.label(dict(enumerate(names)), "DIR")
  assert f"DIR has the labels {', '.join(names)}: exactly one" in str(
    caught.value
  )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return make(tmp_path_factory.mktemp("bert"))


def make(path, labels=LABELS, positions=48):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  words = [*special, *sorted({w.lower().strip(":") for w in cases.WORDS}), ":"]
  (path / "vocab.txt").write_text("\n".join(words) + "\n")
  transformers.BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
  torch.manual_seed(1)
  transformers.BertForSequenceClassification(
    transformers.BertConfig(
      vocab_size=len(words),
      hidden_size=32,
      num_hidden_layers=2,
      num_attention_heads=4,
      intermediate_size=48,
      max_position_embeddings=positions,
      initializer_range=0.6,
      id2label=labels,
      label2id={name: i for i, name in labels.items()},
    )
  ).save_pretrained(path)
  return path


def of(path, **changes):
  return classifier.Classifier(
    config.Verifier(kind="classifier", path=str(path), **changes)
  )


@pytest.mark.parity
def test_verdicts_are_the_likeliest_label_of_each_pair_alone(model):
  import torch
  import transformers

  premises, hypotheses = cases.pairs(24, longest=20)
  got = of(model, batch_tokens=200)
  tokenizer = transformers.AutoTokenizer.from_pretrained(model)
  net = transformers.AutoModelForSequenceClassification.from_pretrained(model)
  net.eval()
  want = []
  for premise, hypothesis in zip(premises, hypotheses, strict=True):
    with torch.no_grad():
      logits = net(**tokenizer(premise, hypothesis, return_tensors="pt")).logits
    want.append(logits.softmax(-1)[0].numpy())
  scores = got.scores(premises, hypotheses)
  np.testing.assert_allclose(scores, [p[2] for p in want], atol=1e-5)
  verdicts = got(premises, hypotheses)
  assert verdicts == [bool(p.argmax() == 2) for p in want]
  assert 0 < sum(verdicts) < 24
  assert got([], []) == []
  assert got.cut == got.unread == 0


@pytest.mark.parity
def test_premises_are_cut_and_too_long_hypotheses_refused_and_counted(model):
  """The model reads 48 tokens, 3 of them special."""
  got = of(model)
  words = lambda count: " ".join(["cat"] * count)
  fits = words(30), words(15)
  cut = words(100), words(15)
  unread = words(1), words(45)
  premises, hypotheses = zip(fits, cut, unread, strict=True)
  with pytest.warns(UserWarning, match="48 tokens: of 3 pairs 1 had .* 1 had"):
    scores = got.scores(premises, hypotheses)
  assert (got.cut, got.unread) == (1, 1)
  assert scores[1] == pytest.approx(scores[0], abs=1e-6)
  assert scores[2] == 0
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert got([words(30)], [words(15)]) == [scores[0] > 0.5]
    assert got([], []) == []


@pytest.mark.parity
def test_the_factory_makes_it_and_its_name_says_which(model):
  cfg = config.Verifier(kind="classifier", path=str(model))
  made = verifiers.make(cfg)
  assert isinstance(made, verifiers.Verifier)
  assert made.name.startswith(f"classifier({model.name}#")
  assert list(made(["the cat"], ["a mat"])) == of(model)(["the cat"], ["a mat"])


@pytest.mark.parity
@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"architectures": ["T5ForConditionalGeneration"]},
      "a T5 that answers 1 or 0 is of kind t5",
    ),
    ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, "labels LABEL_0, LABEL_1"),
  ],
)
def test_what_is_no_entailment_classifier_is_refused(
  tmp_path, model, changes, message
):
  for file in model.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  path = tmp_path / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  with pytest.raises(UserError, match=message):
    of(tmp_path)


def test_without_torch_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UserError, match=r"needs torch: .*grounded_jax\[nli\]"):
    of("anything")


def test_positions_bound_what_is_read():
  bert = {"model_type": "bert", "max_position_embeddings": 512}
  roberta = {
    "model_type": "xlm-roberta",
    "max_position_embeddings": 514,
    "pad_token_id": 1,
  }
  assert classifier._limit(bert, 10**30) == 512
  assert classifier._limit(bert, 128) == 128
  assert classifier._limit(roberta, 10**30) == 512
  assert classifier._limit({"model_type": "t5"}, 10**30) == 0
