"""One run of Tunix's GRPOLearner on a CPU; benchmarks.grpo_step calls it.

In an environment with google-tunix:

    python -m benchmarks.peer_tunix --model=DIR --prompts=8 --prompt_len=256
      --group=8 --new_tokens=64 --steps=5 --micro=0 --out=FILE

Its Llama 3 and its jitted sampler ("vanilla").  --micro is in prompts, each
with its whole group.  Sampling is what `generate` of the cluster takes; the
rest of a step counts as the update.
"""

import importlib.metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.models.llama3 import model as llama3
from tunix.models.llama3 import params as llama3_params
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

from benchmarks import peer_work

_NEVER = 10**9  # steps between evaluations


class Words:
  """Words to ids; the ids of the end and of padding are never sampled."""

  def encode(self, text: str, **_: Any) -> list[int]:
    return [int(word) for word in text.split()]

  def decode(self, ids: Any, **_: Any) -> str:
    return " ".join(str(int(i)) for i in ids)

  def bos_id(self) -> None:
    return None

  def eos_id(self) -> int:
    return -2

  def pad_id(self) -> int:
    return -1


def model_config(settings: dict[str, Any]) -> llama3.ModelConfig:
  """Tunix's description of the model that config.json describes."""
  return llama3.ModelConfig(
    num_layers=settings["num_hidden_layers"],
    vocab_size=settings["vocab_size"],
    embed_dim=settings["hidden_size"],
    hidden_dim=settings["intermediate_size"],
    num_heads=settings["num_attention_heads"],
    head_dim=settings["head_dim"],
    num_kv_heads=settings["num_key_value_heads"],
    rope_theta=int(settings["rope_theta"]),
    norm_eps=settings["rms_norm_eps"],
    weight_tying=settings["tie_word_embeddings"],
    remat_config=llama3.RematConfig.NONE,
  )


def training(work: peer_work.Work) -> dict[str, Any]:
  """The options of the trainer; what is not here is its default."""
  return {
    "max_steps": work.steps,
    "eval_every_n_steps": _NEVER,
    "mini_batch_size": work.prompts,
    "train_micro_batch_size": work.micro or work.prompts,
    "rollout_micro_batch_size": work.prompts,
    "compute_logps_micro_batch_size": work.prompts,
  }


def rollout(work: peer_work.Work) -> dict[str, Any]:
  """The options of the sampler."""
  return {
    "max_tokens_to_generate": work.new_tokens,
    "max_prompt_length": work.prompt_len,
    "kv_cache_size": work.prompt_len + work.new_tokens,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": None,
  }


def cluster(work: peer_work.Work) -> rl_cluster.RLCluster:
  """The cluster whose actor samples and learns on one device."""
  kinds = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=kinds)
  with mesh:
    actor = llama3_params.create_model_from_safe_tensors(
      str(work.model), model_config(work.settings()), mesh, dtype=jnp.float32
    )
  optimizer = optax.chain(
    optax.clip_by_global_norm(peer_work.GRAD_CLIP),
    optax.adamw(peer_work.LEARNING_RATE, weight_decay=peer_work.WEIGHT_DECAY),
  )
  roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.ROLLOUT)
  return rl_cluster.RLCluster(
    actor=actor,
    reference=None,
    tokenizer=Words(),
    cluster_config=rl_cluster.ClusterConfig(
      role_to_mesh=dict.fromkeys(roles, mesh),
      rollout_engine="vanilla",
      offload_to_cpu=False,
      training_config=rl_cluster.RLTrainingConfig(
        actor_optimizer=optimizer, **training(work)
      ),
      rollout_config=base_rollout.RolloutConfig(**rollout(work)),
    ),
  )


def watch(
  made: rl_cluster.RLCluster, work: peer_work.Work, steps: peer_work.Steps
) -> None:
  """Has the cluster's own calls timed; a step ends with its last update."""
  inner, each = made.update_actor, work.prompts // (work.micro or work.prompts)
  calls = 0

  def update(*args, **kwargs):
    nonlocal calls
    inner(*args, **kwargs)
    jax.block_until_ready(nnx.state(made.actor_trainer.model))
    calls += 1
    if calls % each == 0:
      steps.end()

  made.generate = steps.rollout(made.generate)
  made.update_actor = update


def embedding(made: rl_cluster.RLCluster) -> np.ndarray:
  """A copy of the actor's embedding."""
  state = nnx.state(made.actor_trainer.model)
  return np.array(state["embedder"]["input_embedding"].get_value())


def run(work: peer_work.Work, steps: peer_work.Steps) -> None:
  """Does the work, tells `steps` of it and writes the report."""
  made = cluster(work)
  reward = peer_work.Reward()
  learner = grpo_learner.GRPOLearner(
    rl_cluster=made,
    algo_config=grpo_learner.GRPOConfig(
      num_generations=work.group, num_iterations=1, beta=0.0
    ),
    reward_fns=reward,
  )
  watch(made, work, steps)
  texts = np.array(peer_work.prompts(work, work.settings()["vocab_size"]))
  data = [{"prompts": p} for p in texts.reshape(work.steps, work.prompts)]
  before = embedding(made)
  steps.start()
  learner.train(data)
  moved = float(np.abs(embedding(made) - before).max())
  names = ("google-tunix", "jax", "flax")
  versions = {name: importlib.metadata.version(name) for name in names}
  options = training(work) | rollout(work)
  peer_work.report(work, steps, reward, moved, options | versions)


def main() -> None:
  work = peer_work.parse(__doc__.split("\n")[0])
  run(work, peer_work.Steps(work.steps))


if __name__ == "__main__":
  main()
