"""SFT and DPO equal TRL's trainers: losses, metrics and gradients.

TRL's collators make the batch and its loss functions run unchanged, on a stand-
in for the trainer object, with a random Llama that transformers computes.
"""

import collections
import copy
import types as python_types

import family_cases as families
import grouped_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grounded_jax import config, dpo, optim, sft, types

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

pytestmark = pytest.mark.parity

P, L, C, BETA = 3, 9, 6, 0.5
DESCENT = optax.sgd(1.0)  # the parameters' change is the gradient


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
  """(directory, their model with the fused head, ours)."""
  from trl.trainer import utils

  path = families.make("smollm2", tmp_path_factory.mktemp("llama"))
  theirs = families.theirs(path)
  outputs = ("log_probs", "entropy", "mean_logits", "is_top1")
  utils.add_fused_lm_head(theirs, outputs=outputs)
  return path, theirs, families.ours(path)


def rows(g: int) -> types.SFTBatch:
  """Three prompts and G completions each, all of unequal length."""
  rng = np.random.default_rng(1)
  count = rng.integers(1, C + 1, (P, g))
  tokens = rng.integers(3, families.VOCAB, (P, g, C))
  return types.SFTBatch(
    prompts=cases.prompts((9, 4, 6), L, families.VOCAB),
    tokens=jnp.asarray(tokens, jnp.int32),
    weight=jnp.asarray(np.arange(C) < count[..., None], jnp.float32),
  )


def ids(batch: types.SFTBatch, p: int, i: int) -> tuple[list, list]:
  """A prompt and one of its completions, as lists."""
  prompt = np.array(batch.prompts.tokens[p, : batch.prompts.length[p]])
  taught = np.array(batch.tokens[p, i])[np.array(batch.weight[p, i]) > 0]
  return prompt.tolist(), taught.tolist()


def trainer(model, **options):
  """A stand-in for either trainer, which holds what the loss reads."""
  same = lambda x: x
  return python_types.SimpleNamespace(
    model=model,
    accelerator=python_types.SimpleNamespace(
      device="cpu",
      gather=same,
      gather_for_metrics=same,
      parallelism_config=None,
    ),
    aux_loss_enabled=False,
    _metrics={"train": collections.defaultdict(list)},
    _total_train_tokens=0,
    _tp_size=1,
    **options,
  )


def metrics(made) -> dict[str, float]:
  return {name: value[-1] for name, value in made._metrics["train"].items()}


def config_of(path) -> config.Model:
  return config.Model(path=str(path), logp_chunk=8)


def close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_sft_is_that_of_trl(llama):
  """Two demonstrations of each prompt, sequences of their own there."""
  from trl import SFTTrainer
  from trl.trainer import sft_trainer

  path, theirs, (decoder, graphdef, params) = llama
  batch = rows(2)
  sequences = []
  for p, i in np.ndindex(P, 2):
    prompt, taught = ids(batch, p, i)
    labels = [-100] * len(prompt) + taught
    sequences.append({"input_ids": prompt + taught, "labels": labels})
  collate = sft_trainer.DataCollatorForLanguageModeling(pad_token_id=0)
  made = trainer(
    theirs.train(),
    args=python_types.SimpleNamespace(
      loss_type="nll", average_tokens_across_devices=False
    ),
    compute_loss_func=None,
    label_smoother=None,
  )
  loss = SFTTrainer.compute_loss(made, theirs, dict(collate(sequences)))
  want = families.their_gradients(theirs, decoder, loss)

  cfg = config.SFT(prompts=P, group=2, max_new_tokens=C)
  state = optim.init(DESCENT, jax.tree.map(jnp.copy, params))
  state, ours = sft.update(
    cfg, config_of(path), graphdef, DESCENT, state, batch
  )
  close(ours["loss"], loss.item())
  close(ours["accuracy"], metrics(made)["mean_token_accuracy"])
  close(ours["entropy"], metrics(made)["entropy"])
  got = jax.tree.map(jnp.subtract, params, state.params)
  assert cases.worst(got, want) < 1e-4


def test_dpo_is_that_of_trl(llama):
  """The reference is the model; the policy has gone away from it."""
  from trl import DPOTrainer
  from trl.trainer import dpo_trainer

  path, reference, (decoder, graphdef, start) = llama
  theirs = copy.deepcopy(reference).train()
  # A deep copy's forward is still that of the model it is a copy of.
  outputs = ("log_probs", "entropy", "mean_logits", "is_top1")
  del theirs.forward
  dpo_trainer.add_fused_lm_head(theirs, outputs=outputs)
  torch.manual_seed(1)
  with torch.no_grad():
    for value in theirs.parameters():
      value += 0.05 * torch.randn_like(value)
  theirs.save_pretrained(path / "moved")
  params = families.ours(path / "moved")[2]

  batch, pairs = rows(2), []
  for p in range(P):
    prompt, chosen = ids(batch, p, dpo.CHOSEN)
    pairs.append(
      {
        "prompt_ids": prompt,
        "chosen_ids": chosen,
        "rejected_ids": ids(batch, p, dpo.REJECTED)[1],
      }
    )
  collate = dpo_trainer.DataCollatorForPreference(pad_token_id=0)
  made = trainer(
    theirs,
    ref_model=reference,
    args=python_types.SimpleNamespace(gradient_checkpointing_kwargs=None),
    precompute_ref_logps=False,
    beta=BETA,
    loss_types=["sigmoid"],
    loss_weights=[1.0],
    f_divergence_type="reverse_kl",
    ld_alpha=None,
    use_weighting=False,
  )
  loss = DPOTrainer._compute_loss(made, theirs, dict(collate(pairs)), False)
  want = families.their_gradients(theirs, decoder, loss)

  cfg = config.DPO(prompts=P, beta=BETA, max_new_tokens=C)
  common = (cfg, config_of(path), graphdef)
  ref_logp = dpo.completion_logp(*common, start, batch)
  state = optim.init(DESCENT, jax.tree.map(jnp.copy, params))
  state, ours = dpo.update(*common, DESCENT, state, batch, ref_logp)
  told = metrics(made)
  close(ours["loss"], loss.item())
  for name, other in (
    ("reward_chosen", "rewards/chosen"),
    ("reward_rejected", "rewards/rejected"),
    ("margin", "rewards/margins"),
    ("accuracy", "rewards/accuracies"),
    ("logp_chosen", "logps/chosen"),
    ("logp_rejected", "logps/rejected"),
  ):
    close(ours[name], told[other])
  assert abs(told["rewards/margins"]) > 0.01
  got = jax.tree.map(jnp.subtract, params, state.params)
  assert cases.worst(got, want) < 1e-4
