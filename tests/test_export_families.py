"""Every family's export is what was read, and transformers computes it."""

import dataclasses
import json

import family_cases as families
import grouped_cases as cases
import jax
import numpy as np
import pytest

from grounded_jax import config, lora, tokenizer
from grounded_jax.weights import export

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

EVERY = tuple(families.FAMILIES)
VOCAB = 264  # the bytes and their three special tokens fit in
LORA = config.LoRA(rank=3, alpha=6.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """The directory of a family's model, made once."""
  known = {}

  def make(name):
    if name not in known:
      path = tmp_path_factory.mktemp(name)
      known[name] = families.make(name, path, vocab_size=VOCAB)
    return known[name]

  return make


def a_job(path, source, decoder, known=True, **changes) -> export.Job:
  """The export of a model of which the source is known, or is not."""
  place = str(source) if known else ""
  return export.Job(
    model=config.Model(path=place, tokenizer="bytes", decoder=decoder),
    decoder=decoder,
    tokenizer=tokenizer.Bytes(),
    path=path,
    **changes,
  )


def read_json(path):
  return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("known", [True, False], ids=["source", "nowhere"])
@pytest.mark.parametrize("name", EVERY)
def test_import_export_import_is_the_same_to_the_bit(
  made, tmp_path, name, known
):
  decoder, _, params = families.ours(made(name))
  path = tmp_path / "out"
  export.write(a_job(path, made(name), decoder, known), params, 20_000)
  assert len(list(path.glob("model-*.safetensors"))) > 2
  again, _, got = families.ours(path)
  assert again == decoder
  assert jax.tree.structure(got) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, got, params)
  source = read_json(made(name) / "config.json")
  assert (read_json(path / "config.json") == source) == known


@pytest.mark.parametrize("known", [True, False], ids=["source", "nowhere"])
@pytest.mark.parametrize("name", EVERY)
def test_transformers_computes_our_logits_from_an_export(
  made, tmp_path, name, known, record_property
):
  """With an adapter added, so that the export is not the source."""
  decoder, graphdef, base = families.ours(made(name))
  random = np.random.default_rng(1)
  draw = lambda x: np.float32(0.1 * random.standard_normal(x.shape))
  adapter = jax.tree.map(draw, lora.abstract(LORA, base))
  params = lora.attach(LORA, base, adapter)
  job = a_job(tmp_path / "out", made(name), decoder, known)
  job = dataclasses.replace(
    job, model=dataclasses.replace(job.model, lora=LORA)
  )
  export.write(job, params)
  batch = cases.prompts((12, 12, 12), 12, VOCAB)
  got = families.our_logits(graphdef, params, batch.tokens, batch.length)
  want = families.their_logits(families.theirs(job.path), batch.tokens)
  before = families.our_logits(graphdef, base, batch.tokens, batch.length)
  gap = np.abs(got - want).max()
  record_property("exported logits", f"{gap:.1e}")
  assert np.abs(got - before).max() > 0.05
  assert gap < 1e-4
