"""How many programs XLA has compiled: after its first steps a run's are all."""

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


class Counter:
  """Counts compilations from when it is made until it is closed."""

  def __init__(self):
    self._count = 0
    jax.monitoring.register_event_duration_secs_listener(self._hear)

  def _hear(self, name: str, seconds: float, **_) -> None:
    del seconds
    self._count += name == _EVENT

  def take(self) -> int:
    """Those since it was last asked."""
    count, self._count = self._count, 0
    return count

  def close(self) -> None:
    jax.monitoring.unregister_event_duration_listener(self._hear)
