"""Host work beside the device's: a thread for it, and work begun ahead."""

import contextlib
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import TypeVar

Item = TypeVar("Item")


@contextlib.contextmanager
def thread() -> Iterator[futures.Executor]:
  """A thread that does what is submitted, in order.

  An exception is raised where the result is asked for.  Whatever ends the
  block, what is under way is finished and what has not begun is not.
  """
  pool = futures.ThreadPoolExecutor(max_workers=1)
  try:
    yield pool
  finally:
    pool.shutdown(cancel_futures=True)


def settle(beside: futures.Executor) -> None:
  """Waits until all that was submitted is done, whatever came of it."""
  beside.submit(int).result()


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
  """Each item, once the one after it has been made.

  Where making an item only begins it, one is always under way.
  """
  source = iter(items)
  for item in source:
    for following in source:
      yield item
      item = following
    yield item
