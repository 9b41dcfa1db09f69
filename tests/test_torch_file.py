"""Files of torch.save: read without torch, and nothing of them is run."""

import collections
import io
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from grounded_jax.records import UserError
from grounded_jax.weights import stored, torch_file


class Global:
  """Pickles as a name, which is looked up and may be called."""

  def __init__(self, module, name):
    self.name = module, name

  def __call__(self):
    raise AssertionError("only its name is written")


class Call:
  """Pickles as a call of what a name stands for."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


class Writer(pickle._Pickler):
  """Writes storages as references, as torch does, and names as they are."""

  def persistent_id(self, value):
    storage = isinstance(value, tuple) and value[:1] == ("storage",)
    return value if storage else None

  def save_name(self, value):
    module, name = value.name
    self.write(b"c" + module.encode() + b"\n" + name.encode() + b"\n")

  dispatch = pickle._Pickler.dispatch | {Global: save_name}


FLOAT = Global("torch", "FloatStorage")
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def rebuilt(key, count, offset, shape, stride, kind=FLOAT):
  """A tensor as torch pickles it."""
  storage = ("storage", kind, key, "cpu", count)
  hooks = collections.OrderedDict()
  return Call(REBUILD, storage, offset, shape, stride, False, hooks)


def write(path, value, storages=None, **extra):
  """An archive with this pickle and these storages, as torch lays it out."""
  stream = io.BytesIO()
  Writer(stream, protocol=2).dump(value)
  return write_bytes(path, stream.getvalue(), storages, **extra)


def write_bytes(path, pickled, storages=None, byteorder=b"little", **options):
  with zipfile.ZipFile(path, "w", **options) as archive:
    archive.writestr("archive/data.pkl", pickled)
    archive.writestr("archive/byteorder", byteorder)
    for key, numbers in (storages or {}).items():
      archive.writestr(f"archive/data/{key}", numbers.tobytes())
  return path


def test_tensors_are_views_of_the_storages_by_offset_and_stride(tmp_path):
  numbers = np.arange(12, dtype=np.float32)
  made = collections.OrderedDict(
    whole=rebuilt("0", 12, 0, (3, 4), (4, 1)),
    turned=rebuilt("0", 12, 0, (4, 3), (1, 4)),
    part=rebuilt("0", 12, 5, (2, 2), (4, 1)),
    one=rebuilt("0", 12, 7, (), ()),
    none=rebuilt("0", 12, 0, (0, 3), (3, 1)),
  )
  made._metadata = {"version": 1}  # as a state dict of torch carries it
  got = torch_file.read(write(tmp_path / "m.bin", made, {"0": numbers}))
  whole = numbers.reshape(3, 4)
  np.testing.assert_array_equal(got["whole"], whole)
  np.testing.assert_array_equal(got["turned"], whole.T)
  np.testing.assert_array_equal(got["part"], whole[1:, 1:3])
  assert got["one"].shape == () and got["one"] == 7
  assert got["none"].shape == (0, 3)
  base = got["whole"]
  while not isinstance(base, np.memmap):
    base = base.base
  assert base.mode == "r" and not got["whole"].flags.writeable


@pytest.mark.parametrize("name", sorted(torch_file._STORAGES))
def test_every_kind_of_storage(tmp_path, name):
  dtype = torch_file._STORAGES[name]
  numbers = np.array([0, 1, 1, 0, 1]).astype(dtype)
  kind = Global("torch", name)
  value = {"x": rebuilt("7", 5, 1, (4,), (1,), kind)}
  got = torch_file.read(write(tmp_path / "m.bin", value, {"7": numbers}))
  assert got["x"].dtype == dtype
  np.testing.assert_array_equal(got["x"], numbers[1:])


HARMFUL = {
  "os.system": ("touch HARMED",),
  "posix.system": ("touch HARMED",),
  "builtins.eval": ("open('HARMED', 'w')",),
  "builtins.getattr": (FLOAT, "dtype"),
  "torch.load": ("HARMED",),
  "torch._utils._rebuild_parameter": (),
  "torch.storage._load_from_bytes": (b"HARMED",),
  "torch.QInt8Storage": (),
  "numpy.core.multiarray._reconstruct": (),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_any_other_name_is_refused_before_it_is_called(
  tmp_path, monkeypatch, name
):
  monkeypatch.chdir(tmp_path)
  call = Call(Global(*name.rsplit(".", 1)), *HARMFUL[name])
  with pytest.raises(UserError) as caught:
    torch_file.read(write(tmp_path / "m.bin", {"x": call}))
  said = str(caught.value)
  assert f"m.bin names {name}, which is no part of a tensor" in said
  assert "convert the model to safetensors" in said and "\n" not in said
  assert not (tmp_path / "HARMED").exists()


@pytest.mark.parametrize("module", ["collections", "torch._utils", "torch"])
@pytest.mark.parametrize("name", ["OrderedDict.fromkeys", "os.system"])
def test_a_dotted_name_leads_nowhere(tmp_path, module, name):
  """Protocol 4 looks `a.b` up as an attribute of an attribute."""
  both = b"".join(
    b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)
  )
  path = write_bytes(tmp_path / "m.bin", b"\x80\x04" + both + b"\x93.")
  with pytest.raises(UserError, match=f"names {module}.{name}, which is no"):
    torch_file.read(path)


def protocol(text: bytes) -> bytes:
  return b"\x80\x02" + text


# Instructions that set attributes (b), make objects (\x81, i, o) or fetch
# from the registry of extensions (\x82), on what the allowed names stand for.
OPCODES = {
  "attribute of the function": b"ctorch._utils\n_rebuild_tensor_v2\n"
  b"N}X\x08\x00\x00\x00__call__K\x01s\x86b.",
  "attribute of a storage": b"ctorch\nFloatStorage\n"
  b"N}X\x05\x00\x00\x00dtypeK\x01s\x86b.",
  "state of a storage": b"ctorch\nFloatStorage\n"
  b"}X\x05\x00\x00\x00dtypeK\x01sb.",
  "attribute of OrderedDict": b"ccollections\nOrderedDict\n"
  b"N}X\x05\x00\x00\x00itemsK\x01s\x86b.",
  "a new function": b"ctorch._utils\n_rebuild_tensor_v2\n)\x81.",
  "a new storage": b"ctorch\nFloatStorage\n)R.",
  "an instance": b"(itorch\nFloatStorage\n.",
  "an extension": b"\x82\x01.",
  "a reference to anything": b"X\x01\x00\x00\x00aQ.",
  "cut": b"ctorch._utils\n",
  "empty": b"",
  "no instruction": b"\xff\xff",
}


@pytest.mark.parametrize("name", OPCODES)
def test_no_instruction_reaches_beyond_the_stand_ins(tmp_path, name):
  before = dict(vars(torch_file._Rebuild)), dict(vars(torch_file._Kind))
  path = write_bytes(tmp_path / "m.bin", protocol(OPCODES[name]))
  with pytest.raises(UserError, match="m.bin .*so nothing of it was loaded"):
    torch_file.read(path)
  assert before == (
    dict(vars(torch_file._Rebuild)),
    dict(vars(torch_file._Kind)),
  )
  assert collections.OrderedDict(a=1).items()


@pytest.mark.parametrize(
  ("value", "words"),
  [
    ([], "holds a list in place of named tensors"),
    ({"x": 3}, "holds 'x', which is no named tensor"),
    ({3: rebuilt("0", 4, 0, (4,), (1,))}, "holds 3, which is no named"),
    ({"x": rebuilt("0", 4, 0, (5,), (1,))}, "x beyond its storage"),
    ({"x": rebuilt("0", 4, 1, (2, 2), (2, 1))}, "x beyond its storage"),
    ({"x": rebuilt("0", 4, 0, (2,), (2**70,))}, "x beyond its storage"),
    ({"x": rebuilt("0", 4, -1, (2,), (1,))}, "the tensor x wrongly"),
    ({"x": rebuilt("0", 4, 0, (2,), (-1,))}, "the tensor x wrongly"),
    ({"x": rebuilt("0", 4, 0, (2.0,), (1,))}, "the tensor x wrongly"),
    ({"x": rebuilt("0", 4, 0, (2,), (1, 1))}, "the tensor x wrongly"),
    ({"x": rebuilt("0", -4, 0, (2,), (1,))}, "the tensor x wrongly"),
    ({"x": rebuilt("0", 400, 0, (2,), (1,))}, "stores 0 otherwise"),
    ({"x": rebuilt("9", 4, 0, (2,), (1,))}, "lacks the storage 9"),
    ({"x": rebuilt("../0", 4, 0, (2,), (1,))}, "lacks the storage ../0"),
    ({"x": rebuilt(0, 4, 0, (2,), (1,))}, "names a reference that is no stor"),
  ],
)
def test_what_does_not_fit_the_storages_is_refused(tmp_path, value, words):
  numbers = np.arange(4, dtype=np.float32)
  path = write(tmp_path / "m.bin", value, {"0": numbers})
  with pytest.raises(UserError, match=words):
    torch_file.read(path)


def test_other_formats_and_layouts_are_refused_with_advice(tmp_path):
  value = {"x": rebuilt("0", 4, 0, (4,), (1,))}
  numbers = {"0": np.arange(4, dtype=np.float32)}
  path = tmp_path / "m.bin"
  path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C))  # before torch 1.6
  with pytest.raises(UserError, match="no zip archive .* convert the model to"):
    torch_file.read(path)
  write(path, value, numbers, byteorder=b"big")
  with pytest.raises(UserError, match="another byte order"):
    torch_file.read(path)
  write(path, value, numbers, compression=zipfile.ZIP_DEFLATED)
  with pytest.raises(UserError, match="stores 0 otherwise"):
    torch_file.read(path)
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/other", b"")
  with pytest.raises(UserError, match="no single data.pkl"):
    torch_file.read(path)


@pytest.mark.parity
@pytest.mark.parametrize("sharded", [False, True])
def test_files_of_torch_save_come_back_bit_for_bit(tmp_path, sharded):
  torch = pytest.importorskip("torch")
  torch.manual_seed(0)
  base = torch.randn(6, 8)
  state = torch.nn.Linear(5, 3).state_dict()  # with its _metadata
  state |= {
    "turned": base.T,
    "part": base[2:5, 1::2],
    "half": torch.randn(4, 4).to(torch.bfloat16),
    "int": torch.arange(7),
    "scalar": torch.tensor(3.5),
    "large": torch.randn(300, 400),
  }
  if sharded:
    names = sorted(state)
    where = {n: f"pytorch_model-{i % 2}.bin" for i, n in enumerate(names)}
    for file in set(where.values()):
      part = {n: state[n] for n in names if where[n] == file}
      torch.save(part, tmp_path / file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(f'{{"weight_map": {where}}}'.replace("'", '"'))
  else:
    torch.save(state, tmp_path / "pytorch_model.bin")
  got = stored.tensors(tmp_path)
  assert set(got) == set(state)
  for name, tensor in state.items():
    bits = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    want = bits.detach().numpy()
    if tensor.dtype == torch.bfloat16:
      want = want.astype(ml_dtypes.bfloat16)
    assert got[name].dtype == want.dtype and got[name].shape == want.shape
    np.testing.assert_array_equal(got[name][...], want)


@pytest.mark.parity
def test_old_and_untrusted_files_of_torch_are_refused(tmp_path):
  torch = pytest.importorskip("torch")
  path = tmp_path / "m.bin"
  state = {"x": torch.ones(3)}
  torch.save(state, path, _use_new_zipfile_serialization=False)
  with pytest.raises(UserError, match="is no zip archive"):
    torch_file.read(path)
  torch.save(torch.nn.Linear(2, 2), path)  # a module: code, not tensors
  with pytest.raises(UserError, match="names torch.nn.modules.linear.Linear"):
    torch_file.read(path)
  torch.save({"x": torch.nn.Parameter(torch.ones(2))}, path)
  with pytest.raises(UserError, match="_rebuild_parameter"):
    torch_file.read(path)
