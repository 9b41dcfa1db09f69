"""Peak anonymous host memory of loading a model, against its bound.

    python -m benchmarks.load_memory --gigabytes=1.5 --devices=4 --processes=1

Writes a random Llama in shards of safetensors to a temporary folder, loads it
in processes of their own over a mesh of virtual CPU devices (`fsdp` over all),
and polls /proc/PID/status for RssAnon, which leaves mapped files out.  A
process may need, beyond what it held before, its own shards and twice the
largest leaf's shard of one device.  The folder is deleted.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

# Columns of a layer's matrices of [embed, mlp] and those of attention.
_EMBED, _MLP, _HEAD_DIM, _VOCAB = 1024, 4096, 64, 32_000
_SHARD = 300_000_000  # bytes of a file


def _rss_anon(pid: int | str) -> int:
  """Bytes of a process's resident memory that no file backs."""
  text = pathlib.Path(f"/proc/{pid}/status").read_text()
  return 1024 * int(re.search(r"RssAnon:\s+(\d+)", text)[1])


def _decoder(gigabytes: float, width: int):
  from grounded_jax import config

  layer = 4 * _EMBED**2 + 3 * _EMBED * _MLP
  layers = (gigabytes * 1e9 / width - _VOCAB * _EMBED) / layer
  return config.Decoder(
    layers=max(round(layers), 1),
    embed=_EMBED,
    mlp=_MLP,
    heads=_EMBED // _HEAD_DIM,
    kv_heads=_EMBED // _HEAD_DIM,
    head_dim=_HEAD_DIM,
    vocab=_VOCAB,
  )


def _write(path: pathlib.Path, gigabytes: float, stored: str) -> None:
  """A random model, a few hundred megabytes in memory at once."""
  import jax.numpy as jnp
  import numpy as np
  import safetensors.numpy

  from grounded_jax.weights import hf_settings, table

  dtype = jnp.dtype(stored)
  decoder = _decoder(gigabytes, dtype.itemsize)
  random = np.random.default_rng(0)
  where, part, size, count = {}, {}, 0, 0

  def flush():
    nonlocal part, size, count
    safetensors.numpy.save_file(part, path / f"{count}.safetensors")
    where.update(dict.fromkeys(part, f"{count}.safetensors"))
    part, size, count = {}, 0, count + 1

  for row in table.rows(decoder):
    for i in table.layers(row, decoder):
      shape = table.stored_shape(row, decoder)
      tensor = random.standard_normal(shape, np.float32).astype(dtype)
      part[row.hf.format(i)] = tensor
      size += tensor.nbytes
      if size > _SHARD:
        flush()
  if part:
    flush()
  index = path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": where}))
  settings = hf_settings.settings(decoder, stored)
  (path / "config.json").write_text(json.dumps(settings))


def _load(args: argparse.Namespace) -> None:
  """In a process of its own: loads, and prints what it may have needed."""
  import jax

  if args.processes > 1:
    jax.distributed.initialize(
      f"localhost:{args.port}", args.processes, args.process
    )
  from grounded_jax import config, mesh, model, weights

  jax.block_until_ready(jax.numpy.zeros(8) + 1)
  cfg = config.Model(path=args.load, param_dtype=args.param_dtype)
  decoder = weights.decoder(cfg)
  _, shapes = model.abstract(decoder, args.param_dtype)
  devices = mesh.make(config.Mesh(fsdp=-1))
  layout = mesh.shardings(devices, model.logical_axes(decoder), shapes)
  before = _rss_anon("self")
  start = time.perf_counter()
  params = jax.block_until_ready(weights.load(cfg, shapes, layout))
  parts = [
    shard.data.nbytes
    for leaf in jax.tree.leaves(params)
    for shard in leaf.addressable_shards
  ]
  report = {
    "seconds": round(time.perf_counter() - start, 1),
    "before": before,
    "after": _rss_anon("self"),
    "own_shards": sum(parts),
    "largest_shard": max(parts),
  }
  print(json.dumps(report), flush=True)


def _measure(args: argparse.Namespace, path: str) -> None:
  count = args.devices // args.processes
  flags = f"--xla_force_host_platform_device_count={count}"
  env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "benchmarks.load_memory"]
  command += [f"--{k}={v}" for k, v in vars(args).items()]
  children = [
    subprocess.Popen(
      [*command, f"--load={path}", f"--process={i}"],
      env=env,
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(args.processes)
  ]
  peaks = [0] * len(children)
  while any(child.poll() is None for child in children):
    for i, child in enumerate(children):
      try:
        peaks[i] = max(peaks[i], _rss_anon(child.pid))
      except (OSError, TypeError):  # it has ended
        pass
    time.sleep(0.005)
  for peak, child in zip(peaks, children, strict=True):
    out = json.loads(child.stdout.read())
    bound = out["own_shards"] + 2 * out["largest_shard"]
    needed = peak - out["before"]
    out |= {"peak": peak, "needed": needed, "bound": bound}
    out["needed/bound"] = round(needed / bound, 3)
    print(json.dumps(out))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--gigabytes", type=float, default=1.5)
  parser.add_argument("--stored", default="float32", help="dtype of the files")
  parser.add_argument("--param_dtype", default="float32")
  parser.add_argument("--devices", type=int, default=4)
  parser.add_argument("--processes", type=int, default=1)
  parser.add_argument("--process", type=int, default=0, help="set by itself")
  parser.add_argument("--port", type=int, default=9731)
  parser.add_argument("--load", default="", help="set by itself")
  args = parser.parse_args()
  if args.load:
    _load(args)
    return
  with tempfile.TemporaryDirectory() as path:
    _write(pathlib.Path(path), args.gigabytes, args.stored)
    _measure(args, path)


if __name__ == "__main__":
  main()
