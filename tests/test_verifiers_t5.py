"""The T5 verifier: its texts, its batches, and greedy decoding as the law."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
import t5_cases as cases
import tokenizers

from grounded_jax import config, files, scoring, t5, verifiers, weights
from grounded_jax import mesh as mesh_lib
from grounded_jax.records import UserError
from grounded_jax.verifiers import batches, pieces
from grounded_jax.verifiers import t5 as verifier_lib

ROOT = pathlib.Path(__file__).parents[1]
SHAPE = dataclasses.replace(cases.GATED, embed=32, layers=2)


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
  return cases.write_spiece(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tmp_path_factory, spiece):
  """A directory whose T5 says "1", "0" or "Paris", and then ends."""
  return make(tmp_path_factory.mktemp("model"), spiece, ends=True)


def make(path, spiece, ends, seed=0):
  inner = pieces.Pieces(spiece)
  other = inner(["Paris"])[0][0]
  said = (inner.one, inner.zero, other)
  weights.save_t5(path, SHAPE, cases.answering(SHAPE, said, ends, seed))
  (path / "spiece.model").write_bytes((spiece / "spiece.model").read_bytes())
  return path


def of(path, **changes):
  cfg = config.Verifier(
    kind="t5", path=str(path), **({"batch_tokens": 512} | changes)
  )
  return verifier_lib.T5(cfg)


def test_pieces_are_those_of_sentencepiece_and_end_uncut(spiece):
  inner = sentencepiece.SentencePieceProcessor(
    model_file=str(spiece / "spiece.model")
  )
  got = pieces.Pieces(spiece)
  texts = ["premise: the cat\nsat  hypothesis: x", "", "the cat " * 2000]
  want = [[*inner.encode(text), 1] for text in texts]
  assert got(texts) == want
  assert len(want[2]) > 4000
  assert [got.one] == inner.encode("1") and got.zero == inner.encode("0")[0]
  assert got(["\ud800"]) == got(["?"])  # half of a surrogate pair


def test_a_tokenizer_json_gives_the_same_pieces_and_one_end(tmp_path, spiece):
  inner = sentencepiece.SentencePieceProcessor(
    model_file=str(spiece / "spiece.model")
  )
  scored = [
    (inner.id_to_piece(i), inner.get_score(i))
    for i in range(inner.get_piece_size())
  ]
  fast = tokenizers.Tokenizer(tokenizers.models.Unigram(scored, unk_id=2))
  fast.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [
      tokenizers.pre_tokenizers.WhitespaceSplit(),
      tokenizers.pre_tokenizers.Metaspace(),
    ]
  )
  fast.enable_truncation(4)  # as some files say; a premise is never cut
  fast.save(str(tmp_path / "tokenizer.json"))
  texts = ["premise: the cat\nsat  hypothesis: Paris was", "a 1889 tower " * 9]
  want = pieces.Pieces(spiece)
  got = pieces.Pieces(tmp_path)
  assert got(texts) == want(texts)
  assert (got.one, got.zero) == (want.one, want.zero)
  fast.post_processor = tokenizers.processors.TemplateProcessing(
    single="$A </s>", special_tokens=[("</s>", 1)]
  )
  fast.save(str(tmp_path / "tokenizer.json"))
  assert pieces.Pieces(tmp_path)(texts) == want(texts)


def test_a_tokenizer_that_cannot_say_1_is_refused(tmp_path):
  with pytest.raises(UserError, match="neither tokenizer.json nor spiece.mod"):
    pieces.Pieces(tmp_path)
  vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("a", -1.0)]
  fast = tokenizers.Tokenizer(tokenizers.models.Unigram(vocab, unk_id=2))
  fast.save(str(tmp_path / "tokenizer.json"))
  with pytest.raises(UserError, match='no piece of its own for the answer "1"'):
    pieces.Pieces(tmp_path)


def test_widths_and_rows_by_hand():
  widths = [batches.width(n) for n in (0, 1, 64, 65, 97, 129, 193, 257, 3000)]
  assert widths == [64, 64, 64, 96, 128, 192, 256, 384, 3072]
  assert batches.rows(256, 8192, 1) == [32, 8, 2, 1]
  assert batches.rows(256, 8192, 8) == [32, 8]
  assert batches.rows(4096, 1024, 1) == [1]
  assert batches.rows(4096, 1024, 8) == [8]  # a row on each device at least


def test_a_rest_is_cut_where_more_than_half_an_array_would_be_empty():
  rows = lambda count: [p.rows for p in batches.plan([200] * count, 8192)]
  assert rows(31) == rows(17) == [32]
  assert rows(16) == [8, 8] and rows(10) == [8, 2]
  assert rows(5) == [8] and rows(4) == [2, 2] and rows(3) == [2, 1]
  assert rows(70) == [32, 32, 8]


@pytest.mark.parametrize("ways", [1, 4])
def test_a_plan_holds_every_text_once_in_arrays_of_its_few_shapes(ways):
  rng = np.random.default_rng(0)
  for count in (0, 1, 5, 33, 400):
    lengths = rng.integers(1, 700, count).tolist()
    plan = batches.plan(lengths, 2048, ways)
    held = [i for planned in plan for i in planned.texts]
    assert sorted(held) == list(range(count))
    assert [lengths[i] for i in held] == sorted(lengths, reverse=True)
    for planned in plan:
      assert planned.rows in batches.rows(planned.width, 2048, ways)
      assert planned.rows % ways == 0
      assert len(planned.texts) <= planned.rows
      assert max(lengths[i] for i in planned.texts) <= planned.width
      assert planned.rows * planned.width <= max(2048, ways * planned.width)
    # Only the last array may have rows without a text.
    assert all(len(p.texts) == p.rows for p in plan[:-1])


def test_the_text_is_that_of_the_published_judge(model, monkeypatch):
  """premise: P hypothesis: H, as one text that is read to its end."""
  got, read = of(model), []
  inner = got.pieces
  monkeypatch.setattr(
    got, "pieces", lambda texts: read.extend(texts) or inner(texts)
  )
  monkeypatch.setattr(got.pieces, "one", inner.one, raising=False)
  monkeypatch.setattr(got.pieces, "zero", inner.zero, raising=False)
  got(["the cat\nsat "], ["Paris was built."])
  assert read == ["premise: the cat\nsat  hypothesis: Paris was built."]


def test_a_pair_is_judged_alike_alone_and_among_others(model):
  got = of(model)
  premises, hypotheses = cases.pairs(40)
  together = got.scores(premises, hypotheses)
  verdicts = got(premises, hypotheses)
  alone = of(model, batch_tokens=64)
  for i in range(0, 40, 7):
    one = alone.scores(premises[i : i + 1], hypotheses[i : i + 1])
    assert one == pytest.approx(together[i : i + 1], abs=1e-5)
  assert 0 < sum(verdicts) < 40
  assert verdicts == alone(premises, hypotheses)
  assert got([], []) == [] and got.scores([], []) == []


def test_scores_are_the_softmax_over_1_and_0_and_agree_with_verdicts(model):
  """Yes is when "1" is above every token, so above "0": more than a half."""
  got = of(model)
  premises, hypotheses = cases.pairs(8)
  yes = np.array(got(premises, hypotheses))
  share = np.array(got.scores(premises, hypotheses))
  assert (share[yes] > 0.5).all() and yes.any() and not yes.all()
  ids = got.pieces([*map(verifier_lib.text, premises, hypotheses)])
  for i, one in enumerate(ids[:3]):
    tokens, length = jnp.array([one]), jnp.array([len(one)])
    encoded = t5.encode(got._graphdef, got._params, tokens, length)
    logits = t5.decode(
      got._graphdef, got._params, encoded, length, jnp.array([[SHAPE.start]])
    )[0, 0]
    odds = np.exp(logits[got.pieces.one] - logits[got.pieces.zero])
    assert share[i] == pytest.approx(odds / (1 + odds), abs=1e-5)
    assert yes[i] == (np.argmax(logits) == got.pieces.one)


def test_calls_of_the_same_lengths_compile_nothing_more(model):
  verifier_lib.judge.clear_cache()
  got = of(model)
  premises, hypotheses = cases.pairs(50)
  got(premises, hypotheses)
  assert 1 < verifier_lib.judge._cache_size() == len(got.shapes) <= 8
  shuffled = np.random.default_rng(5).permutation(50)
  for count in (50, 50, 49):
    chosen = shuffled[:count]
    got([premises[i] for i in chosen], [hypotheses[i] for i in chosen])
  assert verifier_lib.judge._cache_size() == len(got.shapes)
  widths = {width for _, width in got.shapes}
  possible = {(r, w) for w in widths for r in batches.rows(w, 512, 1)}
  assert got.shapes <= possible


def greedy(path, premises, hypotheses):
  """[(first token, decoded text)] as the published evaluator generates."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  model = transformers.T5ForConditionalGeneration.from_pretrained(
    path, dtype=torch.float32
  ).eval()
  inner = sentencepiece.SentencePieceProcessor(
    model_file=str(path / "spiece.model")
  )
  out = []
  for premise, hypothesis in zip(premises, hypotheses, strict=True):
    text = f"premise: {premise} hypothesis: {hypothesis}"
    ids = torch.tensor([[*inner.encode(text), 1]])
    with torch.no_grad():
      said = model.generate(ids, max_new_tokens=10)[0].tolist()
    kept = [i for i in said if 2 < i < inner.get_piece_size()]
    out.append((said[1], inner.decode(kept), said[2:]))
  return out


@pytest.mark.parity
def test_verdicts_are_those_of_greedy_decoding_that_reads_1(tmp_path, spiece):
  """Of models that end after their answer: decoded == "1", and only then."""
  premises, hypotheses = cases.pairs(30)
  inner, verdicts, said = pieces.Pieces(spiece), [], []
  for seed in (0, 1):
    path = tmp_path / str(seed)
    make(path, spiece, ends=True, seed=seed)
    verdicts += of(path)(premises, hypotheses)
    said += greedy(path, premises, hypotheses)
  assert verdicts == [text == "1" for _, text, _ in said]
  assert {text for _, text, _ in said} >= {"1", "0"}
  assert {first for first, _, _ in said} - {inner.one, inner.zero}  # neither
  assert all(rest == [1] for first, _, rest in said if first == inner.one)


@pytest.mark.parity
def test_the_first_token_decides_where_a_model_goes_on_after_it(
  tmp_path, spiece
):
  """A model that was taught no answers: "1" begins yes, whatever follows."""
  path = make(tmp_path, spiece, ends=False)
  got = of(path)
  premises, hypotheses = cases.pairs(40)
  said = greedy(path, premises, hypotheses)
  verdicts = got(premises, hypotheses)
  one = pieces.Pieces(path).one
  assert verdicts == [first == one for first, _, _ in said]
  assert 0 < sum(verdicts) < 40
  # The published test of the whole text is stricter with such a model.
  assert any(
    yes and text != "1"
    for yes, (_, text, _) in zip(verdicts, said, strict=True)
  )


SHARDED = """
import sys, jax, numpy as np
import t5_cases as cases
from grounded_jax import config, mesh
from grounded_jax.verifiers import t5
assert jax.device_count() == 8
premises, hypotheses = cases.pairs(30)
def of(data, fsdp, tensor, **options):
  cfg = config.Verifier(kind="t5", path=sys.argv[1], batch_tokens=512,
    mesh=config.Mesh(data=data, fsdp=fsdp, tensor=tensor))
  return t5.T5(cfg, **options)
one = of(1, 1, 1)
want, verdicts = one.scores(premises, hypotheses), one(premises, hypotheses)
assert len(set(verdicts)) == 2
q = one._params["encoder"]["attention"]["q"]
assert len(q.sharding.device_set) == 1
for sizes in ((2, 2, 2), (1, -1, 1), (1, 2, 2)):
  got = of(*sizes)
  np.testing.assert_allclose(
    got.scores(premises, hypotheses), want, rtol=0, atol=1e-5)
  assert got(premises, hypotheses) == verdicts, sizes
  q = got._params["encoder"]["attention"]["q"]
  used = int(np.prod([n for n in sizes if n > 0])) if -1 not in sizes else 8
  assert len(q.sharding.device_set) == used, (sizes, q.sharding)
  y, d, n, h = q.shape
  parts = dict(zip(mesh.AXES, got._rows.mesh.shape.values()))
  shard = (y, d // parts["fsdp"], n // parts["tensor"], h)
  assert q.addressable_shards[0].data.shape == shard, sizes
given = mesh.make(config.Mesh(data=1, fsdp=4, tensor=2))
got = of(1, 1, 1, devices=given)
assert got._rows.mesh == given
np.testing.assert_allclose(
  got.scores(premises, hypotheses), want, rtol=0, atol=1e-5)
print("equal")
"""


@pytest.mark.slow
def test_meshes_of_eight_devices_and_slices_of_them_judge_alike(model):
  env = os.environ | {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
  }
  done = subprocess.run(
    [sys.executable, "-c", SHARDED, str(model)],
    env=env,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.strip() == "equal"


def test_a_mesh_that_does_not_cut_the_model_or_fit_the_devices_is_refused(
  model,
):
  count = jax.local_device_count()
  with pytest.raises(UserError, match="mesh.data=1, mesh.fsdp=1, mesh.tensor"):
    mesh_lib.local(config.Mesh(data=1, fsdp=1, tensor=count + 1))
  assert mesh_lib.local(config.Mesh()).size == count
  one = mesh_lib.local(config.Mesh(data=1, fsdp=1, tensor=1))
  assert one.axis_names == mesh_lib.AXES and one.size == 1


def test_bfloat16_is_held_and_named(model):
  got = of(model, dtype="bfloat16")
  leaves = jax.tree.leaves(got._params)
  assert {leaf.dtype.name for leaf in leaves} == {"bfloat16"}
  premises, hypotheses = cases.pairs(8)
  wide = of(model).scores(premises, hypotheses)
  near = got.scores(premises, hypotheses)
  assert np.abs(np.array(near) - wide).mean() < 0.05
  assert got.name.endswith(", bfloat16)")


def test_the_factory_loads_a_model_once_and_remembers_verdicts(model):
  cfg = config.Verifier(kind="t5", path=str(model), batch_tokens=512)
  made = verifiers.make(cfg)
  again = verifiers.make(dataclasses.replace(cfg, cache=5))
  assert made._verifier is again._verifier
  assert isinstance(made, verifiers.Verifier)
  premises, hypotheses = cases.pairs(6)
  assert list(made(premises, hypotheses)) == of(model)(premises, hypotheses)
  assert made(premises, hypotheses) and made.hits >= 6
  assert made.name == of(model).name
  assert made.name.startswith(f"t5({model.name}#")
  assert scoring.describe(cfg) == f"t5({files.label(str(model))})"


def test_verifiers_come_without_jax_until_a_model_is_asked_for():
  code = (
    "import sys, grounded_jax.verifiers as v, grounded_jax.config as c\n"
    "v.make(c.Verifier())\n"
    "assert 'jax' not in sys.modules and 'torch' not in sys.modules"
  )
  env = os.environ | {"PYTHONPATH": str(ROOT)}
  subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_a_fingerprint_follows_contents_not_places(tmp_path, model):
  label = files.label(str(model))
  assert label == f"{model.name}#{files.fingerprint(model)}"
  for name, changed in (("copy", False), ("other", True)):
    path = tmp_path / name
    path.mkdir()
    for file in model.iterdir():
      data = bytearray(file.read_bytes())
      if changed and file.suffix == ".safetensors":
        data[-1] ^= 1
      (path / file.name).write_bytes(data)
    same = files.fingerprint(path) == files.fingerprint(model)
    assert same != changed


def test_what_is_no_t5_verifier_is_one_sentence(tmp_path, model):
  with pytest.raises(UserError, match="does not exist"):
    of(tmp_path / "absent")
  with pytest.raises(UserError, match="no config.json"):
    of(tmp_path)
  for file in model.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  (tmp_path / "spiece.model").write_bytes(b"no model")
  with pytest.raises(UserError, match=f"The tokenizer of {tmp_path} cannot be"):
    of(tmp_path)
  values = json.loads((tmp_path / "config.json").read_text())
  values["vocab_size"] = 40
  (tmp_path / "config.json").write_text(json.dumps(values))
  with pytest.raises(UserError, match="shape"):
    of(tmp_path)


def test_a_model_smaller_than_its_tokenizer_is_refused(tmp_path, spiece):
  shape = dataclasses.replace(SHAPE, vocab=40)
  _, params = cases.parameters(shape)
  weights.save_t5(tmp_path, shape, params)
  (tmp_path / "spiece.model").write_bytes(
    (spiece / "spiece.model").read_bytes()
  )
  with pytest.raises(UserError, match="pieces but the model only 40"):
    of(tmp_path)


def test_mode_score_takes_a_t5_and_names_it(tmp_path, model):
  row = {
    "id": "a",
    "task": "short",
    "question": "What runs through Paris?",
    "answers": [["the river"]],
    "docs": [{"title": "Paris", "text": "the river", "answers_found": [1]}],
    "output": "the river runs through Paris [1].",
  }
  path = tmp_path / "out.jsonl"
  path.write_text(json.dumps(row) + "\n")
  command = [sys.executable, "-m", "grounded_jax.main", "--mode=score"]
  command += [f"--outputs={path}", "--bootstrap=0", "--verifier=t5"]
  env = os.environ | {"PYTHONPATH": str(ROOT)}
  run = lambda *more: subprocess.run(
    [*command, *more], env=env, capture_output=True, text=True
  )
  done = run(f"--verifier_path={model}")
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout)
  assert result["meta"]["verifier"] == f"t5({files.label(str(model))})"
  premise, hypothesis = (
    "Title: Paris\nthe river",
    "the river runs through Paris.",
  )
  yes = of(model)([premise], [hypothesis])[0]
  assert result["citation_recall"] == (100 if yes else 0)
  assert math.isfinite(result["trust"])
  refused = run()
  assert refused.returncode == 2
  assert "google/t5_xxl_true_nli_mixture" in refused.stderr
  assert len(refused.stderr.strip().splitlines()) == 1


def test_a_hub_without_safetensors_is_asked_for_its_torch_files(
  tmp_path, monkeypatch
):
  import huggingface_hub

  asked = []

  def download(name, allow_patterns):
    asked.append((name, tuple(allow_patterns)))
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  assert files.find("google/t5").path == tmp_path
  assert asked[0][1][-1] == "*.safetensors" and len(asked) == 2
  assert asked[1] == ("google/t5", ("pytorch_model*.bin",))
  (tmp_path / "model.safetensors").touch()
  files.find("google/t5")
  assert len(asked) == 3
