"""Scoring beside sampling: the order of events, and the same results."""

import _thread
import dataclasses
import signal
import threading

import jax
import numpy as np
import pytest
import rich.console
import tiny

from grounded_jax import checkpoint, log, overlap, tokenizer, train
from grounded_jax import policy as policy_lib
from grounded_jax.records import UserError

PATIENCE = 60  # seconds after which what never happens has failed


def test_one_ahead_makes_the_next_before_it_gives_one():
  events = []

  def made():
    for i in range(3):
      events.append(f"make {i}")
      yield i

  for i in overlap.one_ahead(made()):
    events.append(f"use {i}")
  assert events == [
    "make 0",
    "make 1",
    "use 0",
    "make 2",
    "use 1",
    "use 2",
  ]
  assert list(overlap.one_ahead([])) == []


def test_the_thread_works_in_order_and_drops_what_has_not_begun():
  go, done = threading.Event(), []
  with pytest.raises(ZeroDivisionError):
    with overlap.thread() as beside:
      beside.submit(lambda: (go.wait(PATIENCE), done.append("first")))
      beside.submit(done.append, "second")
      threading.Timer(0.2, go.set).start()
      raise ZeroDivisionError
  assert done == ["first"]


def test_what_failed_is_done_too():
  with overlap.thread() as beside:
    failed = beside.submit(lambda: 1 / 0)
    overlap.settle(beside)
    assert failed.done()


def experiment(tmp_path, chunks, **changes):
  """Two steps on four prompts, in so many chunks."""
  grpo = dataclasses.replace(
    tiny.GRPO, prompts=4, sample_chunks=chunks, **changes
  )
  path = tiny.write_records(tmp_path / "records.jsonl", 12)
  stage = tiny.stage("only", steps=2, grpo=grpo)
  return tiny.experiment(path, [stage], evals=False)


def run(made, workdir, score):
  console = rich.console.Console(quiet=True)
  return train.run(made, workdir, score=score, console=console)


def test_a_chunk_is_begun_while_a_slow_verifier_judges_the_one_before(
  tmp_path, monkeypatch
):
  """Chunk 3 begins before the scores of chunk 1, which wait for it, exist."""
  events, third = [], threading.Event()
  begin, names = policy_lib.begin, iter(range(1, 100))

  def begun(*args, **kwargs):
    name = next(names)
    events.append(f"begin {name}")
    if name == 3:
      third.set()
    return begin(*args, **kwargs)

  def slow(examples, completions):
    assert third.wait(PATIENCE), "the next chunk waits for the scores"
    events.append("scored")
    return tiny.varied_score(examples, completions)

  monkeypatch.setattr(policy_lib, "begin", begun)
  made = experiment(tmp_path, 4)
  stage = dataclasses.replace(made.stages[0], steps=1)
  run(dataclasses.replace(made, stages=(stage,)), tmp_path / "run", slow)
  assert events[:3] == ["begin 1", "begin 2", "begin 3"]
  assert events.count("scored") == 4
  row = log.read_metrics(tmp_path / "run")[0]
  assert 0 < row["score_share"] < 1
  assert row["seconds_score_wait"] <= row["seconds"]


def test_chunks_change_no_completion_and_no_score(tmp_path):
  """Refills included.  What is learned differs by rounding alone.

  A sampler compiled for another number of prompts may round a log-probability
  otherwise, and with it an importance weight.
  """
  found = []
  for chunks in (1, 2):
    made = experiment(
      tmp_path, chunks, zero_advantage="refill", refill_rounds=1
    )
    workdir = tmp_path / f"run{chunks}"
    run(made, workdir, tiny.varied_score)
    saved = checkpoint.find(str(workdir))
    params = policy_lib.load(made, tokenizer.Bytes(), saved)[1]
    rollouts = sorted((workdir / "rollouts").iterdir())
    found.append((jax.device_get(params), [p.read_bytes() for p in rollouts]))
  (whole, texts), (parts, same_texts) = found
  assert len(texts) == 2 and same_texts == texts
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, parts, whole)


def test_an_error_in_the_thread_ends_the_run_with_its_words(tmp_path):
  calls = []

  def score(examples, completions):
    calls.append(len(examples))
    raise UserError("The verifier has no words.")

  with pytest.raises(UserError, match="The verifier has no words."):
    run(experiment(tmp_path, 2), tmp_path / "run", score)
  assert calls[0] == 4  # two prompts of two completions


def test_an_interrupt_while_scoring_ends_the_run(tmp_path):
  # Workers of a parallel test run ignore interrupts.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  calls = []

  def score(examples, completions):
    calls.append(len(examples))
    _thread.interrupt_main()
    return tiny.varied_score(examples, completions)

  try:
    with pytest.raises(KeyboardInterrupt):
      run(experiment(tmp_path, 1), tmp_path / "run", score)
  finally:
    signal.signal(signal.SIGINT, before)
  assert len(calls) == 1
