"""Who has which rows, and what is told: the laws of many processes, on one."""

import os
import signal
import threading
from concurrent import futures

import jax
import numpy as np
import pytest

from grounded_jax import config, distributed, hosts, mesh
from grounded_jax.records import UserError


def test_every_row_is_dealt_to_one_process_that_holds_it():
  """Rows 0-3 are held by 0 and 1, 4-7 by 2 alone, 8 by 1, 2 and 3."""
  holders = {(0, 4): {0, 1}, (4, 8): {2}, (8, 9): {1, 2, 3}}
  dealt = [hosts.dealt(holders, process).tolist() for process in range(5)]
  assert dealt == [[0, 2], [1, 3, 8], [4, 5, 6, 7], [], []]


def test_a_process_alone_has_all_rows_and_tells_itself():
  layout = mesh.rows(mesh.make(config.Mesh()))
  assert hosts.share(layout, 5).tolist() == [0, 1, 2, 3, 4]
  assert hosts.every({"a": 1}) == [{"a": 1}]
  assert hosts.once(lambda: 7) == 7
  assert hosts.first()


def test_rows_come_to_the_host_as_they_were_put():
  layout = mesh.rows(mesh.make(config.Mesh()))
  x = np.arange(12.0).reshape(4, 3)
  rows = hosts.share(layout, 4)
  np.testing.assert_array_equal(
    hosts.fetch(hosts.put(x, layout), layout, rows), x
  )


@pytest.mark.parametrize(
  ("coordinator", "processes", "process_id"),
  [
    ("localhost:1", 0, None),
    ("", 2, None),
    ("", 0, 1),
    ("localhost:1", 2, None),
    ("localhost:1", 1, 0),
    ("", 1, 1),
  ],
)
def test_flags_of_a_process_belong_together(coordinator, processes, process_id):
  with pytest.raises(UserError, match="belong together"):
    with distributed.together(coordinator, processes, process_id):
      pass


@pytest.mark.parametrize(("port", "process_id"), [("1", 2), ("x", 0)])
def test_a_process_that_cannot_be_is_named(port, process_id):
  with pytest.raises(UserError, match=f"--process_id={process_id} must be"):
    with distributed.together(f"localhost:{port}", 2, process_id):
      pass


def test_sigterm_is_a_notice_only_as_long_as_it_is_watched_for():
  before = signal.getsignal(signal.SIGTERM)
  notice = distributed.Notice()
  assert not notice.reached(1)
  os.kill(os.getpid(), signal.SIGTERM)
  assert notice.reached(2)
  notice.close()
  assert signal.getsignal(signal.SIGTERM) == before


def test_every_pair_is_judged_by_one_process_and_known_to_all(monkeypatch):
  """Three processes, as threads that meet where values are told."""
  here, told = threading.local(), [None] * 3
  meet = threading.Barrier(3)

  def every(value):
    told[here.index] = value
    meet.wait()
    values = list(told)
    meet.wait()
    return values

  monkeypatch.setattr(hosts, "every", every)
  monkeypatch.setattr(hosts.jax, "process_count", lambda: 3)
  monkeypatch.setattr(hosts.jax, "process_index", lambda: here.index)
  asked = [[], [], []]

  class Longer:
    name = "longer"

    def __call__(self, premises, hypotheses):
      pairs = list(zip(premises, hypotheses, strict=True))
      asked[here.index] += pairs
      return [len(premise) > len(hypothesis) for premise, hypothesis in pairs]

    def metrics(self):
      return {"pairs": len(asked[here.index])}

  pairs = [("a" * (7 * i % 5), "bb") for i in range(8)]

  def process(index):
    here.index = index
    return hosts.Shared(Longer())(*map(list, zip(*pairs, strict=True)))

  with futures.ThreadPoolExecutor(3) as pool:
    verdicts = list(pool.map(process, range(3)))
  assert verdicts == [[len(a) > len(b) for a, b in pairs]] * 3
  assert sorted(sum(asked, [])) == sorted(pairs)
  assert [len(own) for own in asked] == [3, 3, 2]


@pytest.mark.parametrize(
  "error, expected",
  [
    (ValueError("coordinator_address should be defined."), False),
    (RuntimeError("must be called before any JAX calls"), False),
    (jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED"), UserError),
  ],
)
def test_a_pod_whose_hosts_do_not_meet_is_no_single_host(
  error, expected, monkeypatch
):
  """Else each host would train alone, and write over the others."""

  def initialize(**_):
    raise error

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  if expected is False:
    with distributed.together("", 0, None):
      return
  with pytest.raises(UserError, match="did not find each other"):
    with distributed.together("", 0, None):
      pass
