"""A module imports only from lower layers or its own package."""

import ast
import pathlib
from collections.abc import Sequence

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "grounded_jax"

# From the lowest layer up; a package counts as one entry.
LAYERS = (
  ("records",),
  ("sentences",),
  ("chips", "config", "text"),
  ("refusals",),
  # Layer 1 of the design: without jax, then with it.
  ("jsonstream",),
  ("files", "gguf_vocab", "log", "outputs", "overlap", "prompts"),
  ("hlo_text",),
  ("hlo_cost",),
  ("hlo",),
  ("counts", "estimate"),
  ("data",),
  ("verifiers",),
  ("rewards", "trust_score"),
  (
    *("attention_blocks", "compiles", "distributed", "hosts", "kv_cache"),
    *("masked", "mesh", "softmax", "types"),
  ),
  ("attention_kernels",),
  ("attention_decode", "attention_gpu", "attention_tpu"),
  ("attention", "draw", "grpo_loss", "lora", "optim", "packing", "rotary"),
  ("slots",),
  # Layer 2.
  ("mixing", "ondemand"),
  ("consistency", "model", "report", "scoring", "selective", "tokenizer"),
  ("baselines", "pipeline", "stops", "t5", "tokenizer_files"),
  # Layer 3.
  ("lessons", "logp", "sampler", "weights", "written"),
  ("blocks",),
  ("refill",),
  # Layer 4.
  ("checkpoint", "dpo", "grpo", "sft"),
  ("curriculum", "groups", "layout", "verifiers/t5"),
  ("inputs",),
  ("policy",),
  # Layer 5.
  ("benchmark", "census", "evaluate", "plan"),
  ("aot",),
  ("topology",),
  ("journal", "variants"),
  ("ahead", "rollouts", "taught"),
  ("rejection",),
  # Layers 6 and 7.
  ("train",),
  ("modes",),
  ("main",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# These never import jax, so that any trainer can use rewards, metric and data.
NO_JAX = (
  "baselines",
  "chips",
  "config",
  "consistency",
  "counts",
  "data",
  "estimate",
  "files",
  "gguf_vocab",
  "hlo",
  "hlo_cost",
  "hlo_text",
  "jsonstream",
  "log",
  "main",
  "ondemand",
  "outputs",
  "overlap",
  "prompts",
  "records",
  "refusals",
  "report",
  "rewards",
  "scoring",
  "selective",
  "sentences",
  "text",
  "tokenizer",
  "tokenizer_files",
  "trust_score",
  "verifiers",
)


def unit(path: pathlib.Path) -> str:
  """The module or package of `grounded_jax` that a file belongs to."""
  return _unit(path.relative_to(ROOT).with_suffix("").parts)


def _unit(parts: Sequence[str]) -> str:
  """The package or module that a dotted name starts with.

  A verifier that computes with jax stands apart from its package, which
  imports it only when it is asked for one.
  """
  whole = "/".join(parts[:2])
  return whole if whole in LEVEL else parts[0]


FILES = sorted(
  p for p in ROOT.rglob("*.py") if p.parent != ROOT or unit(p) != "__init__"
)


def imports(path: pathlib.Path) -> set[str]:
  """Every module that a file imports, inside functions too, dotted."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text("utf-8"))):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def test_every_module_has_a_layer():
  assert {unit(path) for path in FILES} <= set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_come_from_lower_layers_or_the_own_package(path):
  own = unit(path)
  for name in imports(path):
    if not name.startswith("grounded_jax."):
      continue
    other = _unit(name.split(".")[1:])
    inside = other.split("/")[0] == own  # asked for within a function
    allowed = other == own or inside or LEVEL[other] < LEVEL[own]
    assert allowed, f"{own} imports {other}"


@pytest.mark.parametrize("name", NO_JAX)
def test_host_modules_never_import_jax(name):
  for path in FILES:
    if unit(path) == name:
      roots = {module.split(".")[0] for module in imports(path)}
      assert not roots & {"jax", "jaxlib", "flax", "optax", "orbax"}, path
      inner = {
        m.split(".")[1] for m in imports(path) if m.startswith("grounded_jax.")
      }
      if name != "main":  # whose modes bring jax when they run
        assert inner <= set(NO_JAX) | {name}, path
