"""The life of a run of several processes: they begin, and end, together.

A process whose signs of life stay out is lost; jax then ends the others within
HEARTBEAT seconds (by SIGABRT, from a thread of its own, since they may wait for
the lost one).  SIGTERM, which hosts send before they are taken away, is a
notice: all processes agree on a step, save after it and end.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from grounded_jax.records import Preempted, UserError

HEARTBEAT = 30  # seconds without a sign of life, then a process is lost
_FAREWELL = 20  # seconds that a process waits for the others to end too


@contextlib.contextmanager
def together(
  coordinator: str, processes: int, process_id: int | None
) -> Iterator[None]:
  """Joins the processes of the run, and leaves with them.

  Args:
    coordinator: HOST:PORT of the first process; "" = a pod's own environment
      (TPU metadata, Slurm, Open MPI), or this process alone where there is
      none.
    processes: of the run; 0 = as the environment says, 1 = this one alone.
    process_id: of this process, from 0; None = as the environment says.

  Raises:
    UserError: flags that do not fit each other.
  """
  joined = _join(coordinator, processes, process_id)
  try:
    yield
  except Preempted:
    if joined:
      jax.distributed.shutdown()
    raise
  if joined:
    jax.distributed.shutdown()


def _join(coordinator: str, processes: int, process_id: int | None) -> bool:
  """Whether there are other processes, once they have all met."""
  given = (bool(coordinator), processes > 1, process_id is not None)
  if processes == 1 and not coordinator and not process_id:
    return False
  if any(given) and not all(given):
    raise UserError(
      "--coordinator=HOST:PORT, --processes=N (2 or more) and --process_id=I"
      " belong together: the same address and number for all, I from 0 to N-1."
    )
  waits = {
    "heartbeat_timeout_seconds": HEARTBEAT,
    "shutdown_timeout_seconds": _FAREWELL,
  }
  if all(given):
    if process_id >= processes or not coordinator.rpartition(":")[2].isdigit():
      raise UserError(
        f"--process_id={process_id} must be below --processes={processes}, and"
        f" --coordinator={coordinator} must end with the number of a port."
      )
    jax.distributed.initialize(coordinator, processes, process_id, **waits)
    return True
  try:
    jax.distributed.initialize(**waits)
  except jax.errors.JaxRuntimeError as error:
    raise UserError(
      f"The processes of this pod did not find each other ({error}): start the"
      " same command on every host."
    ) from None
  except (ValueError, RuntimeError):
    # No pod; or jax has computed already, for a caller that is not a pod's.
    return False
  return True


class Notice:
  """Watches for SIGTERM, to any of the processes."""

  def __init__(self):
    self._told = False
    self._before = None
    main = threading.current_thread() is threading.main_thread()
    # In a run of several processes jax watches.
    if main and not jax.distributed.is_initialized():
      self._before = signal.signal(signal.SIGTERM, self._tell)

  def _tell(self, *_) -> None:
    self._told = True

  def reached(self, point: int) -> bool:
    """Whether the run ends at this point: the same one in all processes.

    Args:
      point: counts up, one at each call, alike everywhere.
    """
    return self._told or multihost_utils.reached_preemption_sync_point(point)

  def close(self) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)
