"""Each device's part of a leaf is read alone, from a disk or from a bucket."""

import json
import os
import subprocess
import sys

import grouped_cases as cases
import jax
import numpy as np
import pytest
import safetensors.numpy
import test_gguf_families as ggufs
from etils import epath
from etils.epath import testing

from grounded_jax import config, files, model, tokenizer, weights
from grounded_jax.records import UserError
from grounded_jax.weights import ranged, table

DECODER = config.Decoder(
  layers=4,
  embed=16,
  mlp=24,
  heads=4,
  kv_heads=2,
  head_dim=6,
  vocab=40,
  tied=False,
  qkv_bias=True,
)


def parameters(decoder=DECODER):
  return jax.tree.map(np.asarray, cases.parameters(decoder)[1])


def load(path):
  cfg = config.Model(path=str(path))
  return weights.load(cfg, model.abstract(weights.decoder(cfg))[1])


def assert_same(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def cuts(row, decoder):
  """Every way to cut one axis of a leaf in two, but not within a head."""
  shape = table.leaf_shape(row, decoder)
  names = (["Y"] if row.stacked else []) + row.axes.split()
  for axis, name in enumerate(names):
    half = shape[axis] // 2
    for part in (slice(0, half), slice(half, None)):
      if name != "H":
        yield tuple(
          part if a == axis else slice(None) for a in range(len(shape))
        )


@pytest.mark.parametrize("kind", ["safetensors", "gguf", "bucket"])
def test_a_part_is_that_of_the_leaf_and_no_more_is_read(tmp_path, kind):
  params = parameters()
  if kind == "gguf":
    path = ggufs.write(tmp_path / "m.gguf", "qwen2", DECODER, params)
  else:
    path = tmp_path
    weights.save(path, DECODER, params)
  if kind == "bucket":
    checkpoint = weights.hf_directory.read(path, epath.Path(path))
  else:
    checkpoint = weights.read(config.Model(path=str(path)))
  read = []

  def tensor(name, index):
    read.append(checkpoint.tensor(name, index))
    return read[-1]

  for row in table.rows(DECODER):
    leaf = params["blocks"][row.path[1]] if row.stacked else params[row.path[0]]
    for index in cuts(row, DECODER):
      read.clear()
      got = table.part(row, DECODER, tensor, np.dtype("float32"), index)
      np.testing.assert_array_equal(got, leaf[index])
      assert sum(x.size for x in read) == got.size


def test_a_leaf_is_never_cut_within_a_head():
  row = next(r for r in table.rows(DECODER) if r.path[-1] == "q")
  index = (slice(None), slice(None), slice(0, 3))
  with pytest.raises(ValueError, match="within a head"):
    table.stored_index(row, DECODER, index)


_ON_FOUR = """
import json, sys
import jax
import numpy as np
from grounded_jax import config, mesh, model, weights

cfg = config.Model(path=sys.argv[1])
decoder = weights.decoder(cfg)
_, shapes = model.abstract(decoder)
devices = mesh.make(config.Mesh(fsdp=2, tensor=2))
layout = mesh.shardings(devices, model.logical_axes(decoder), shapes)
params = weights.load(cfg, shapes, layout)
whole = weights.load(cfg, shapes)
same = jax.tree.map(lambda a, b: bool((np.array(a) == b).all()), params, whole)
placed = jax.tree.map(lambda a, s: a.sharding == s, params, layout)
sizes = [s.data.size for s in params["blocks"]["q"].addressable_shards]
every = lambda tree: all(jax.tree.leaves(tree))
print(json.dumps([every(same), every(placed), sizes]))
"""


def test_four_devices_hold_a_quarter_of_each_matrix(tmp_path):
  weights.save(tmp_path, DECODER, parameters())
  env = os.environ | {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": os.pathsep.join(sys.path),
  }
  command = [sys.executable, "-c", _ON_FOUR, str(tmp_path)]
  out = subprocess.run(command, env=env, capture_output=True, text=True)
  assert out.returncode == 0, out.stderr
  quarter = 4 * 16 * 4 * 6 // 4
  assert json.loads(out.stdout) == [True, True, [quarter] * 4]


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """A folder that stands for gs://bucket, and the reads of its files."""
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  # Where it is installed, epath would ask TensorFlow, which asks the network.
  monkeypatch.setattr(epath.gpath, "_is_tf_installed", lambda: False)
  place, opened = tmp_path / "bucket", []
  place.mkdir()
  here = lambda path: str(path).replace("gs://bucket", str(place))

  def moved(original, path, *args, **kwargs):
    return original(here(path), *args, **kwargs)

  def opening(original, path, mode):
    opened.append(os.path.basename(path))
    return original(here(path), mode)

  names = ("exists", "isdir", "listdir", "glob", "stat")
  with testing.mock_epath(open=opening, **dict.fromkeys(names, moved)):
    yield place, opened


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_bucket_gives_what_the_same_directory_gives(
  bucket, monkeypatch, dtype
):
  place, _ = bucket
  monkeypatch.setattr(ranged, "_READ", 100)  # a row or two at a time
  weights.save(place / "m", DECODER, parameters(), dtype)
  assert_same(load("gs://bucket/m"), load(place / "m"))


def test_shards_of_a_bucket_are_read_in_place_and_small_files_copied(bucket):
  place, opened = bucket
  path = place / "m"
  weights.save(path, DECODER, parameters())
  tensors = safetensors.numpy.load_file(path / "model.safetensors")
  (path / "model.safetensors").unlink()
  where = {name: f"{i % 2}.safetensors" for i, name in enumerate(tensors)}
  for shard in ("0.safetensors", "1.safetensors"):
    part = {n: t for n, t in tensors.items() if where[n] == shard}
    safetensors.numpy.save_file(part, path / shard)
  index = path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": where}))
  (path / "tokenizer.json").write_text("{}")
  assert_same(load("gs://bucket/m"), parameters())
  found = files.find("gs://bucket/m")
  copied = sorted(file.name for file in found.path.iterdir())
  assert copied == ["config.json", index.name, "tokenizer.json"]
  assert opened.count("0.safetensors") > 1
  (path / "tokenizer.json").unlink()
  assert len(list(files.find("gs://bucket/m").path.iterdir())) == 2
  (path / "1.safetensors").unlink()
  with pytest.raises(UserError, match="names 1.safetensors, which is not"):
    load("gs://bucket/m")


def test_a_tokenizer_in_a_bucket_is_that_of_the_directory(bucket):
  place, _ = bucket
  (place / "m").mkdir()
  for name in ("config.json", "tokenizer.json"):
    source = files.WARMSTART / ("0" if name == "config.json" else "") / name
    (place / "m" / name).write_bytes(source.read_bytes())
  got = tokenizer.load(config.Model(path="gs://bucket/m"))
  want = tokenizer.load(config.Model(path=str(place / "m")))
  assert got.encode("Ada") == want.encode("Ada")


def test_a_broken_bucket_is_named(bucket, monkeypatch):
  place, _ = bucket
  with pytest.raises(UserError, match="gs://bucket/m cannot be read .FileNot"):
    load("gs://bucket/m")
  (place / "m").mkdir()
  with pytest.raises(UserError, match="no config.json in gs://bucket/m"):
    load("gs://bucket/m")
  weights.save(place / "m", DECODER, parameters())
  file = place / "m" / "model.safetensors"
  whole = file.read_bytes()
  for broken in (whole[:-10], whole[:5], b"\xff" * 8 + whole[8:]):
    file.write_bytes(broken)
    with pytest.raises(UserError, match="not a whole safetensors file"):
      load("gs://bucket/m")


def test_without_a_backend_for_buckets_the_sentence_says_what_to_install(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setattr(epath.gpath, "_is_tf_installed", lambda: False)
  monkeypatch.setitem(sys.modules, "gcsfs", None)
  with pytest.raises(UserError, match="pip install 'etils.epath-gcs.'"):
    files.find("gs://no-such-bucket-of-ours/model")
