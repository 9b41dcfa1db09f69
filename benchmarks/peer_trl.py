"""One run of TRL's GRPOTrainer on a CPU; benchmarks.grpo_step calls it.

In an environment with torch, transformers, datasets and trl:

    python -m benchmarks.peer_trl --model=DIR --prompts=8 --prompt_len=256
      --group=8 --new_tokens=64 --steps=5 --micro=0 --out=FILE

--micro is in completions.  Sampling is what `generate` of the model takes; the
rest of a step counts as the update.
"""

import tempfile
from typing import Any

import datasets
import tokenizers
import torch
import transformers
import trl

from benchmarks import peer_work


def tokenizer(vocab: int) -> transformers.PreTrainedTokenizerFast:
  """Words to ids; the ids of the end and of padding are never sampled."""
  words = {str(i): i for i in range(vocab)}
  words |= {"<eos>": vocab, "<pad>": vocab + 1}
  inner = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(words, unk_token="<pad>")
  )
  inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=inner,
    eos_token="<eos>",
    pad_token="<pad>",
    padding_side="left",
  )


def settings(work: peer_work.Work) -> dict[str, Any]:
  """The trainer's options; what is not here is its default."""
  batch = work.prompts * work.group
  micro = work.micro or batch
  return {
    "per_device_train_batch_size": micro,
    "gradient_accumulation_steps": batch // micro,
    "steps_per_generation": batch // micro,  # new rollouts for every update
    "num_iterations": 1,
    "num_generations": work.group,
    "max_completion_length": work.new_tokens,
    "max_steps": work.steps,
    "beta": 0.0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "learning_rate": peer_work.LEARNING_RATE,
    "lr_scheduler_type": "constant",
    "weight_decay": peer_work.WEIGHT_DECAY,
    "max_grad_norm": peer_work.GRAD_CLIP,
    "optim": "adamw_torch_fused",
    # By default it trains in bfloat16 and computes activations twice.
    "bf16": False,
    "gradient_checkpointing": False,
    "mask_truncated_completions": False,
    "shuffle_dataset": False,
    "use_cpu": True,
    "logging_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 0,
  }


class Ends(transformers.TrainerCallback):
  """Tells the timer when steps begin and end."""

  def __init__(self, steps: peer_work.Steps):
    self._steps = steps

  def on_train_begin(self, *args, **kwargs) -> None:
    self._steps.start()

  def on_step_end(self, *args, **kwargs) -> None:
    self._steps.end()


def run(work: peer_work.Work, steps: peer_work.Steps) -> None:
  """Does the work, tells `steps` of it and writes the report."""
  vocab = work.settings()["vocab_size"]
  words = tokenizer(vocab)
  texts = peer_work.prompts(work, vocab)
  if len(words(texts[0])["input_ids"]) != work.prompt_len:
    raise RuntimeError("a prompt has other tokens than its words")
  model = transformers.AutoModelForCausalLM.from_pretrained(
    work.model, dtype=torch.float32, attn_implementation="sdpa"
  )
  reward = peer_work.Reward()
  model.generate = steps.rollout(model.generate)
  weight = next(model.parameters())  # the embedding
  before = weight.detach().clone()
  options = settings(work)
  with tempfile.TemporaryDirectory() as scratch:
    trainer = trl.GRPOTrainer(
      model=model,
      reward_funcs=reward,
      args=trl.GRPOConfig(output_dir=scratch, **options),
      train_dataset=datasets.Dataset.from_dict({"prompt": texts}),
      processing_class=words,
      callbacks=[Ends(steps)],
    )
    trainer.train()
  moved = (weight.detach() - before).abs().max().item()
  versions = {m.__name__: m.__version__ for m in (trl, transformers, torch)}
  threads = {"threads": torch.get_num_threads()}
  peer_work.report(work, steps, reward, moved, options | versions | threads)


def main() -> None:
  work = peer_work.parse(__doc__.split("\n")[0])
  run(work, peer_work.Steps(work.steps))


if __name__ == "__main__":
  main()
