"""The config: frozen fields, dictionaries there and back, mistakes named."""

import dataclasses
import math
import pathlib

import pytest

from grounded_jax import config
from grounded_jax.records import UserError

FROZEN = pathlib.Path(__file__).parent / "golden" / "config_fields.txt"


def fields(cls: type, where: str = "") -> list[str]:
  """Every field below a section, dotted, with its default."""
  out = []
  for field in dataclasses.fields(cls):
    name = f"{where}{field.name}"
    section = config._section_type(field.type)
    if section:
      out += fields(section, f"{name}.")
    else:
      default = field.default
      shown = "" if default is dataclasses.MISSING else f" = {default!r}"
      out.append(name + shown)
  return out


def frozen() -> str:
  """What golden/config_fields.txt holds."""
  return "\n".join(sorted(fields(config.Experiment))) + "\n"


def experiment() -> config.Experiment:
  return config.Experiment(
    name="tiny",
    stages=(config.Stage(name="first"), config.Stage(name="second")),
    evals=(config.Eval(name="dev", source=config.Source(path="x")),),
  )


def test_fields_and_defaults_are_the_frozen_list():
  """A new knob edits the list, so that review sees it.

  `python tests/test_config.py` writes it anew.
  """
  assert frozen() == FROZEN.read_text("utf-8")


def test_a_reward_does_not_judge_itself():
  judge = config.Stage(name="any").rewards.verifier
  dev = config.Eval(name="dev", source=config.Source(path="x"), headline=judge)
  with pytest.raises(UserError, match="first is rewarded by the judge"):
    dataclasses.replace(experiment(), evals=(dev,))


def test_one_model_is_one_judge_however_it_is_run():
  rewarded = config.Stage(name="any").rewards
  t5 = config.Verifier(kind="t5", path="DIR")
  stage = dataclasses.replace(
    config.Stage(name="first"),
    rewards=dataclasses.replace(rewarded, verifier=t5),
  )
  for changes in ({"batch_tokens": 1}, {"cache": 5}, {"dtype": "float32"}):
    judge = dataclasses.replace(t5, **changes)
    dev = config.Eval(
      name="dev", source=config.Source(path="x"), headline=judge
    )
    with pytest.raises(UserError, match="first is rewarded by the judge"):
      config.Experiment(name="tiny", stages=(stage,), evals=(dev,))
  other = dataclasses.replace(t5, path="OTHER")
  dev = config.Eval(name="dev", source=config.Source(path="x"), headline=other)
  config.Experiment(name="tiny", stages=(stage,), evals=(dev,))


def test_a_cache_makes_no_other_judge():
  judge = dataclasses.replace(config.Rewards().verifier, cache=7)
  dev = config.Eval(name="dev", source=config.Source(path="x"), headline=judge)
  with pytest.raises(UserError, match="first is rewarded by the judge"):
    dataclasses.replace(experiment(), evals=(dev,))


def test_dictionary_form_round_trips():
  made = config.from_dict(config.Experiment, config.to_dict(experiment()))
  assert made == experiment()


def test_an_override_reaches_the_stage_of_that_name_only():
  values = config.to_dict(experiment())
  values["stages"]["second"]["grpo"]["clip_high"] = 0.5
  made = config.from_dict(config.Experiment, values)
  assert [s.grpo.clip_high for s in made.stages] == [0.28, 0.5]


def test_an_integer_is_a_float_but_not_the_reverse():
  values = config.to_dict(experiment())
  values["stages"]["first"]["grpo"]["beta"] = 0
  assert config.from_dict(config.Experiment, values).stages[0].grpo.beta == 0.0
  values["seed"] = 1.5
  with pytest.raises(UserError, match=r"config\.seed=1\.5 is a float"):
    config.from_dict(config.Experiment, values)


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    ("sed", 1, "config has no field 'sed'; it has: name, seed"),
    ("data.tags", 1, "config.data.tags=1 is a int"),
    ("data.style", "x", "config.data: style='x' must be one of trust"),
    ("stages.first.grpo.micro", 7, "prompts=48 is not divisible by grpo.mic"),
    ("stages.first.grpo.prompts", 0, "prompts=0 must be greater than 0"),
    ("stages.first.grpo.sample_chunks", 0, "sample_chunks=0 must be from 1"),
    (
      "stages.first.grpo.sample_chunks",
      5,
      "48 is not divisible by grpo.sample",
    ),
    ("stages.first.rewards.verifier.disk", "x", "disk='x' is for verifiers"),
    ("stages.first.grpo.beta", 0.1, "zero_advantage=refill needs beta=0"),
    ("stages.first.grpo.micro", -1, "micro=-1 must be 0 or more"),
    (
      "stages.first.grpo.max_new_tokens",
      1,
      "max_new_tokens=1 must be 2 or mor",
    ),
    ("stages.first.grpo.temperature", 0.0, "temperature=0.0 must be greater"),
    ("stages.first.grpo.clip_low", 1.5, "clip_low=1.5 must be from 0 to 1"),
    ("stages.first.grpo.refill_rounds", -1, "refill_rounds=-1 must be 0 or"),
    ("stages.first.sft.micro", 3, "sft.prompts=16 is not divisible by sft.mic"),
    ("stages.first.sft.micro", -4, "micro=-4 must be 0 or more"),
    ("stages.first.sft.max_new_tokens", 1, "max_new_tokens=1 must be 2"),
    ("stages.first.sft.pack", -1, "pack=-1 must be 0 or more"),
    ("stages.first.sft.group", 4, "worded in 3 ways: set at most 3"),
    ("stages.first.dpo.micro", 3, "dpo.prompts=64 is not divisible by dpo.mic"),
    ("stages.first.dpo.beta", 0.0, "beta=0.0 must be greater than 0"),
    ("stages.first.epochs", -1, "epochs=-1 must be 0 or more"),
    ("stages.first.sft.mixed", 1.5, "mixed=1.5 must be from 0 to 1"),
    ("stages.first.optimizer.lr", 0.0, "lr=0.0 must be greater than 0"),
    ("stages.first.optimizer.lr", math.inf, "optimizer.lr=inf must be a finit"),
    ("stages.first.optimizer.lr", math.nan, "optimizer.lr=nan must be a finit"),
    ("stages.first.optimizer.b1", -0.1, "b1=-0.1 must be from 0 to 1"),
    ("stages.first.optimizer.b2", 1.0, "b1=0.9 and b2=1.0 must be below 1"),
    ("stages.first.optimizer.warmup", 2.0, "warmup=2.0 must be from 0 to 1"),
    ("stages.first.optimizer.grad_clip", -1.0, "grad_clip=-1.0 must be 0 or"),
    ("stages.first.rewards.overlong", -1, "overlong=-1 must be 0 or more"),
    ("stages.first.rewards.refusal_threshold", 101, "must be from 0 to 100"),
    ("stages.first.rewards.verifier.threshold", 0.0, "must be greater than 0"),
    ("stages.first.rewards.verifier.threshold", 1.5, "must be from 0 to 1"),
    ("stages.first.steps", -1, "steps=-1 must be 0 or more"),
    ("stages.first.log_rollouts", -1, "log_rollouts=-1 must be 0 or more"),
    ("evals.dev.batch", 0, "batch=0 must be greater than 0"),
    ("evals.dev.bootstrap", -1, "bootstrap=-1 must be 0 or more"),
    ("evals.dev.max_new_tokens", 1, "max_new_tokens=1 must be 2 or more"),
    ("evals.dev.temperature", -0.5, "temperature=-0.5 must be 0 or more"),
    ("evals.dev.top_p", 0.0, "top_p=0.0 must be greater than 0"),
    ("evals.dev.top_p", 1.5, "top_p=1.5 must be from 0 to 1"),
    ("evals.dev.splitter", "x", "splitter='x' must be one of punkt, rule"),
    ("evals.dev.source.limit", -1, "limit=-1 must be 0 or more"),
    ("seed", -1, "seed=-1 must be from 0 to 2147483647"),
    ("seed", 2**31, "seed=2147483648 must be from 0"),
    ("name", "", "experiment name '' must consist of letters"),
    ("name", "../x", "experiment name '../x' must consist of letters"),
    ("model.decoder.layers", 10**9, "layers=1000000000 must be from 1 to"),
    ("model.decoder.head_dim", 7, "head_dim=7 must be even"),
    ("model.decoder.rope_theta", 0.0, "rope_theta=0.0 must be greater than 0"),
    ("stages.first.rewards.verifier.kind", "nli", "must be one of lexical"),
    ("stages.first.rewards.verifier.kind", "t5", "google/t5_xxl_true_nli_mix"),
    ("stages.first.rewards.verifier.kind", "classifier", "needs a path: a dir"),
    ("stages.first.rewards.verifier.path", "DIR", "kind=lexical reads none"),
    ("stages.first.rewards.verifier.dtype", "int8", "one of , float32, bfloat"),
    ("stages.first.rewards.verifier.batch_tokens", 0, "must be greater than 0"),
    ("model.decoder.kv_heads", 3, "heads=4 is not divisible by kv_heads=3"),
    ("model.param_dtype", "int8", "must be one of float32"),
    ("stages.first.name", "a/b", "must consist of letters"),
  ],
)
def test_a_mistake_is_one_sentence_that_names_the_field(path, value, message):
  values = config.to_dict(experiment())
  *sections, name = path.split(".")
  section = values
  for part in sections:
    section = section[part]
  section[name] = value
  with pytest.raises(UserError) as caught:
    config.from_dict(config.Experiment, values)
  assert message in str(caught.value)
  assert "\n" not in str(caught.value)


def test_two_stages_of_one_name_are_refused():
  with pytest.raises(UserError, match="two of the stages have one name"):
    config.Experiment(
      name="x", stages=(config.Stage(name="a"), config.Stage(name="a"))
    )


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"pattern": ""}, "pattern='' must consist of the letters"),
    ({"pattern": "GX"}, "pattern='GX' must consist of the letters"),
    ({"pattern": "LG"}, "window=0 does not fit pattern='LG'"),
    ({"window": 8}, "window=8 does not fit pattern='G'"),
    ({"activation": "relu"}, "activation='relu' must be one of silu, gelu"),
    ({"rope_scaling": "yarn"}, "rope_scaling='yarn' must be one of"),
    ({"rope_factor": 0.0}, "rope_factor=0.0 must be greater than 0"),
    ({"rope_low": 4.0}, "rope_high=4.0 must exceed rope_low=4.0"),
    ({"attn_softcap": -1.0}, "attn_softcap=-1.0 must be 0 or more"),
  ],
)
def test_a_decoder_that_cannot_be_is_refused(changes, message):
  with pytest.raises(UserError, match=message):
    config.Decoder(**changes)


def test_a_pattern_repeats_over_the_depth():
  decoder = config.Decoder(layers=7, pattern="LLG", window=4)
  assert decoder.kinds == "LLGLLGL"


if __name__ == "__main__":
  FROZEN.write_text(frozen(), "utf-8")


@pytest.mark.parametrize(
  ("headline", "reward"),
  [
    ({"threshold": 0.7}, {"threshold": 0.7, "cache": 5}),
    ({"kind": "oracle"}, {"kind": "oracle", "threshold": 0.9}),
  ],
)
def test_a_judge_of_its_own_reward_is_refused_under_any_other_name(
  headline, reward
):
  """Neither the size of its memory nor an unread threshold makes it another."""
  item = config.Eval(
    name="dev",
    source=config.Source(path="x"),
    headline=config.Verifier(**headline),
  )
  rewards = config.Rewards(verifier=config.Verifier(**reward))
  stage = config.Stage(name="one", rewards=rewards)
  with pytest.raises(config.UserError, match="rewarded by the judge"):
    config.Experiment(name="x", stages=(stage,), evals=(item,))


def test_rows_and_records_are_not_both_stated():
  with pytest.raises(UserError, match="records='b' empty"):
    config.Stage(
      name="a", objective="sft", sft=config.SFT(path="a"), records="b"
    )
