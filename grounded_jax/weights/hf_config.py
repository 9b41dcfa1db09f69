"""config.json of Hugging Face, read into a decoder.

It is read as `transformers` reads it: its classes' defaults stand for what a
file leaves out.  What is neither read nor known to be without effect on the
numbers is refused by its name.
"""

import pathlib
from typing import Any

from grounded_jax import config
from grounded_jax.records import UserError
from grounded_jax.weights import checkpoint, families
from grounded_jax.weights.families import Settings


def decoder(path: pathlib.Path, settings: Settings) -> config.Decoder:
  """The decoder that the contents of a config.json describe.

  Raises:
    UserError: another architecture, or a field or value that the decoder has
      no place for, by its name.
  """
  names = settings.get("architectures") or ["none stated"]
  if names[0] not in families.FAMILIES:
    raise UserError(
      f"{path} describes a model of the architecture {names[0]}; supported are"
      f" {', '.join(families.FAMILIES)}."
    )
  family = families.FAMILIES[names[0]]
  try:
    _refuse(family, settings)
    known = family.defaults | settings
    fields = {
      **family.decoder,
      **_sizes(known),
      **_rope(family, known),
      **_kinds(family, known),
    }
  except KeyError as error:
    raise UserError(f"{path} has no field {error.args[0]!r}.") from None
  except UserError as error:
    raise UserError(f"{path}: {error}") from None
  return checkpoint.make_decoder(path, **fields)


def _unsupported(name: str, value: Any) -> UserError:
  return UserError(f"{name}={value!r} is not supported.")


def _refuse(family: families.Family, settings: Settings) -> None:
  """Raises UserError for what the decoder would silently leave out."""
  kind = settings.get("model_type", family.model_type)
  if kind != family.model_type:
    raise _unsupported("model_type", kind)
  for name in ("hidden_act", "hidden_activation"):
    wanted = family.decoder.get("activation", "silu")
    value = settings.get(name)
    if value is not None and families.ACTIVATIONS.get(value) != wanted:
      raise _unsupported(name, value)
  read = {
    "hidden_act",
    "hidden_activation",
    *families.SIZES,
    *families.ROPE,
    *family.defaults,
  }
  for name, value in settings.items():
    if name == "layer_types" and name not in read:
      others = set(value or ()) - {"full_attention"}
      if others:
        raise UserError(f"layer type {min(others)!r} is not supported.")
    elif name in families.ONE_VALUE:
      if value not in (None, families.ONE_VALUE[name]):
        raise _unsupported(name, value)
    elif (
      name not in read | families.INERT and value and not name.startswith("_")
    ):
      raise _unsupported(name, value)


def _sizes(known: Settings) -> Settings:
  heads, embed = known["num_attention_heads"], known["hidden_size"]
  softcap = lambda name: float(known.get(name) or 0.0)
  return {
    "layers": known["num_hidden_layers"],
    "embed": embed,
    "mlp": known["intermediate_size"],
    "heads": heads,
    "kv_heads": known["num_key_value_heads"] or heads,
    "head_dim": known["head_dim"] or embed // heads,
    "vocab": known["vocab_size"],
    "norm_eps": float(known["rms_norm_eps"]),
    "tied": known["tie_word_embeddings"],
    "query_scalar": float(known.get("query_pre_attn_scalar") or 0.0),
    "attn_softcap": softcap("attn_logit_softcapping"),
    "final_softcap": softcap("final_logit_softcapping"),
  }


def _rope(family: families.Family, known: Settings) -> Settings:
  """Rotary base and scaling, in the form of any release of transformers."""
  # transformers 5 writes rope_parameters, older releases rope_scaling.
  new, old = known.get("rope_parameters"), known.get("rope_scaling")
  if new and old:
    raise UserError("rope_parameters and rope_scaling are both there.")
  source = "rope_parameters" if new else "rope_scaling"
  whole = dict(new or old or {})
  by_kind = "rope_local_base_freq" in family.defaults
  if new and by_kind:
    local = dict(whole.pop("sliding_attention", None) or {})
    rest = dict(whole.pop("full_attention", None) or {})
    if whole:
      raise _unsupported(source, new)
  else:
    local, rest = {}, whole
  theta = float(rest.pop("rope_theta", None) or known["rope_theta"])
  out = {"rope_theta": theta} | _scaling(source, rest, known)
  if by_kind:
    base = local.pop("rope_theta", None) or known["rope_local_base_freq"]
    if _scaling(source, local, known) != {"rope_scaling": "none"}:
      raise UserError(f"{source} of local layers {local} is not supported.")
    out["local_rope_theta"] = float(base)
  return out


def _scaling(source: str, rope: Settings, known: Settings) -> Settings:
  rope = dict(rope)
  kinds = [rope.pop(name, None) for name in ("rope_type", "type")]
  kind = kinds[0] or kinds[1] or "default"
  if kind not in families.SCALINGS:
    raise UserError(f"{source} of type {kind!r} is not supported.")
  if rope.pop("partial_rotary_factor", None) not in (None, 1.0):
    raise UserError(f"{source}: partial_rotary_factor is not supported.")
  for name in rope:
    if name not in families.SCALINGS[kind]:
      raise _unsupported(f"{source} of type {kind!r}: {name}", rope[name])
  if kind == "llama3" and "original_max_position_embeddings" not in rope:
    rope["original_max_position_embeddings"] = known["max_position_embeddings"]
  out = {"rope_scaling": "none" if kind == "default" else kind}
  for theirs, ours in families.SCALINGS[kind].items():
    number = int if ours == "rope_original" else float
    out[ours] = number(rope[theirs])
  return out


def _kinds(family: families.Family, known: Settings) -> Settings:
  """The pattern of layers and the window of local ones."""
  layers = known["num_hidden_layers"]
  if not 0 < layers <= 10_000:  # refused where the decoder is made
    return {}
  window = known.get("sliding_window")
  local = _local_layers(family, known, layers)
  if any(local) and not window:
    raise _unsupported("sliding_window", window)
  smollm3 = family.model_type == "smollm3"
  turned = _turned(known, layers) if smollm3 else [1] * layers
  letters = [
    ("L" if near else "G") if turns else ("l" if near else "g")
    for near, turns in zip(local, turned, strict=True)
  ]
  pattern = shortest("".join(letters))
  return {"pattern": pattern, "window": window if any(local) else 0}


def _check_length(name: str, values: list, layers: int) -> None:
  if len(values) < layers:
    raise UserError(f"{name} names {len(values)} of {layers} layers.")


def _local_layers(
  family: families.Family, known: Settings, layers: int
) -> list[bool]:
  """Which layers see a window only."""
  kind = family.model_type
  if kind == "mistral":
    return [known["sliding_window"] is not None] * layers
  if "sliding_window" not in family.defaults:
    return [False] * layers
  may = known.get("use_sliding_window", True)
  types = known["layer_types"]
  if types:
    _check_length("layer_types", types, layers)
    others = set(types) - {"full_attention", "sliding_attention"}
    if others:
      raise UserError(f"layer type {min(others)!r} is not supported.")
    if not may and "sliding_attention" in types:
      raise UserError("layer_types does not fit use_sliding_window=False.")
    return [t == "sliding_attention" for t in types[:layers]]
  if not may:
    return [False] * layers
  if kind.startswith("gemma"):
    step = known.get("sliding_window_pattern", 2)
    return [(i + 1) % step != 0 for i in range(layers)]
  if kind == "smollm3":  # the layers without rotary positions
    turned = _turned(known, layers)
    return [known["sliding_window"] is not None and not t for t in turned]
  first = known["max_window_layers"]
  return [
    known["sliding_window"] is not None and i >= first for i in range(layers)
  ]


def _turned(known: Settings, layers: int) -> list[int]:
  """Which layers of SmolLM3 have rotary positions."""
  step = known["no_rope_layer_interval"]
  turned = known["no_rope_layers"]
  turned = turned or [int((i + 1) % step != 0) for i in range(layers)]
  _check_length("no_rope_layers", turned, layers)
  return turned[:layers]


def shortest(kinds: str) -> str:
  """The shortest pattern that repeats to `kinds`."""
  for size in range(1, len(kinds) + 1):
    if (kinds[:size] * len(kinds))[: len(kinds)] == kinds:
      return kinds[:size]
  return kinds
