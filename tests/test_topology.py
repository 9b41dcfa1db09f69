"""What a step on a topology comes to, from what its programs take."""

import pytest

from grounded_jax import config, topology
from grounded_jax.records import UserError


def table(arguments, outputs, temporaries):
  return {
    "memory_bytes": {
      "arguments": arguments,
      "outputs": outputs,
      "temporaries": temporaries,
    }
  }


# Parameters take 10, moments 20, a verifier 5, the sampler's weights and
# prompts 8.
PROGRAMS = {
  "init": table(10, 20, 0),
  "reshard": table(10, 7, 3),
  "sampler": table(8, 1, 40),
  "logp": table(11, 1, 9),
  "update": table(31, 0, 50),
  "verifier": table(5, 1, 2),
}


def test_beside_a_program_lies_what_it_does_not_take():
  held = topology.resident(PROGRAMS, config.Stage(name="one"))
  assert held == {
    "init": 5,
    "reshard": 25,
    "sampler": 35,
    "logp": 25,
    "update": 5,
    "verifier": 30,
  }


def test_copies_of_the_parameters_lie_beside_every_program():
  """A reference, and one that samples ahead."""
  cfg = config.GRPO(beta=0.1, zero_advantage="keep", off_policy_steps=1)
  plain = topology.resident(PROGRAMS, config.Stage(name="one"))
  more = topology.resident(PROGRAMS, config.Stage(name="one", grpo=cfg))
  assert {name: more[name] - plain[name] for name in plain} == dict.fromkeys(
    plain, 20
  )


def test_a_verifier_that_judges_beside_the_sampler_leaves_it_its_arrays():
  cfg = config.GRPO(sample_chunks=2)
  held = topology.resident(PROGRAMS, config.Stage(name="one", grpo=cfg))
  assert held["verifier"] == 38


def test_a_program_that_did_not_compile_holds_nothing():
  programs = {"init": {"fits": False, "reason": "too much"}}
  assert topology.resident(programs, config.Stage(name="one")) == {}


@pytest.mark.parametrize(
  ("name", "options"), [("pack", {"pack": 1}), ("slots", {"slots": 2})]
)
def test_what_it_would_compile_otherwise_than_a_run_is_refused(name, options):
  stage = config.Stage(name="one", grpo=config.GRPO(**options))
  experiment = config.Experiment(name="e", stages=(stage,))
  with pytest.raises(UserError, match=rf"stages\.one\.grpo\.{name}"):
    topology.run(experiment, "v5e:2x2")
