"""Verdicts on disk, shared by runs and by processes.

One SQLite file.  Each access is one short transaction over a connection of its
own, so that threads, processes and a crash at any moment are SQLite's concern.
The journal is the rollback one.  WAL needs memory that all processes share,
which network folders lack, and when several processes began on one new file it
answered "database is locked" whatever the timeout.
"""

import contextlib
import pathlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence

from grounded_jax import log
from grounded_jax.records import UserError

LIMIT = 10_000_000  # verdicts in a file, about 54 bytes each
_PATIENCE = 30  # seconds that other processes may write
_AT_ONCE = 500  # keys a query; any SQLite allows 999


class Disk:
  """Verdicts by key; the oldest make room for new ones.

  What cannot be opened is the user's to mend.  What fails later, as on a full
  disk, is said once and then done without: a run outlives its cache.
  """

  def __init__(self, folder: str, limit: int = LIMIT):
    """Opens a folder's verdicts.

    Args:
      folder: made if it does not exist.
      limit: verdicts that are kept.

    Raises:
      UserError: they cannot be read or written.
    """
    self._path = pathlib.Path(folder).expanduser() / "verdicts.sqlite3"
    self._limit = limit
    self._lost = False
    try:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      with self._transaction("IMMEDIATE") as database:
        database.execute(
          "CREATE TABLE IF NOT EXISTS verdicts (age INTEGER PRIMARY KEY,"
          " key BLOB NOT NULL UNIQUE, supported INTEGER NOT NULL)"
        )
        database.execute("SELECT age, key, supported FROM verdicts LIMIT 1")
    except (OSError, sqlite3.Error) as error:
      raise UserError(
        f"verifier.disk: {self._path} cannot be used ({error}): remove it or"
        " name another directory."
      ) from None

  def find(self, keys: Sequence[bytes]) -> dict[bytes, bool]:
    """The verdicts of those keys that have one."""
    found = {}
    if self._lost:
      return found
    with self._tolerant(), self._transaction("DEFERRED") as database:
      for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        rows = database.execute(
          "SELECT key, supported FROM verdicts WHERE key IN"
          f" ({','.join('?' * len(some))})",
          some,
        )
        found |= {key: bool(supported) for key, supported in rows}
    return found

  def add(self, verdicts: Mapping[bytes, bool]) -> None:
    """Keeps the verdicts; what another process has added meanwhile stays."""
    if self._lost:
      return
    with self._tolerant(), self._transaction("IMMEDIATE") as database:
      database.executemany(
        "INSERT OR IGNORE INTO verdicts (key, supported) VALUES (?, ?)",
        verdicts.items(),
      )
      database.execute(
        "DELETE FROM verdicts WHERE age <= (SELECT max(age) FROM verdicts) - ?",
        (self._limit,),
      )

  @contextlib.contextmanager
  def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
    """A transaction; IMMEDIATE takes the lock before it reads.

    Of two readers that both turn writers one would have to give up.
    """
    database = sqlite3.connect(self._path, timeout=_PATIENCE)
    with contextlib.closing(database), database:
      database.execute(f"BEGIN {kind}")
      yield database

  @contextlib.contextmanager
  def _tolerant(self) -> Iterator[None]:
    """Says a failure, and that the file is not asked again."""
    try:
      yield
    except sqlite3.Error as error:
      self._lost = True
      log.say(f"{self._path} failed ({error}): going on without it.")
