"""What an operator does with a pool, of threads or of tasks. None of it waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

from resilience.pool._core import PoolCore
from resilience.pool._entry import PoolState

if TYPE_CHECKING:
    from resilience.events import Emitter
    from resilience.pool._options import PoolOptions

__all__ = ("PoolFace",)

C = TypeVar("C")
P = ParamSpec("P")
T = TypeVar("T")


class _Lending(Protocol):
    """The part of a pool that lends."""

    def change(self, step: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Make one change of the machine, and return its result."""
        ...

    def settle(self) -> None:
        """Work off what a change has left."""
        ...

    def reopen(self) -> None:
        """Lend again."""
        ...


class PoolFace(Generic[C]):
    """Base of both pools.

    Args:
        core: The machine of the pool, and its errors and events.
        lending: The part that lends.
    """

    def __init__(self, core: PoolCore[C, Any], lending: _Lending) -> None:
        self._core = core
        self._changes = lending

    @property
    def name(self) -> str:
        """The name in errors, events and figures."""
        return self._core.name

    @property
    def options(self) -> PoolOptions:
        """The options with which the pool was made. `snapshot()` has the sizes after `resize`."""
        return self._core.options

    @property
    def events(self) -> Emitter:
        """The events of this pool; see docs/events.md."""
        return self._core.events

    @property
    def is_closed(self) -> bool:
        """Whether the pool lends nothing any more."""
        return self._core.machine.state is PoolState.CLOSED

    def resize(self, maximum_pool_size: int, minimum_idle: int | None = None) -> None:
        """Change the number of connections. Of too many, idle ones are closed now and others when they come back.

        Args:
            maximum_pool_size: The connections at most.
            minimum_idle: The idle connections that are kept ready. Default: as before, at most `maximum_pool_size`.

        Raises:
            ConfigurationError: A value breaks the rules of the options.
        """
        maximum, minimum = self._core.checked_size(maximum_pool_size, minimum_idle)
        before = self._core.machine.maximum
        self._changes.change(self._core.machine.resize, maximum, minimum)
        self._changes.settle()
        facts = {"before": before, "after": maximum}
        self.events.emit("pool.resized", self.name, self._core.clock(), "info", **facts)

    def drain(self) -> None:
        """Replace all connections: idle ones are closed now, others when they come back. Borrowers notice nothing."""
        self._changes.change(self._core.machine.recycle, "drained")
        self._changes.settle()
        self.events.emit("pool.drained", self.name, self._core.clock(), "info")

    def suspend(self) -> None:
        """Lend nothing until `resume()`. Borrowers wait, as long as they would for a connection."""
        self._changes.change(self._core.machine.suspend)
        self.events.emit("pool.suspended", self.name, self._core.clock(), "warning")

    def resume(self) -> None:
        """Lend again after `suspend()`, first to the borrowers that wait."""
        self._changes.change(self._core.machine.resume, self._core.clock())
        self._changes.settle()
        self.events.emit("pool.resumed", self.name, self._core.clock(), "info")

    def reopen(self) -> None:
        """Lend again after `close()`. Connections that are still in use are closed when they come back.

        An `AsyncPool` that has no connection in use, or whose event loop has ended, may be used in another loop then.
        """
        self._changes.reopen()
        self.events.emit("pool.reopened", self.name, self._core.clock(), "info")

    def snapshot(self) -> dict[str, Any]:
        """Return the state and the counts as plain data. It takes no lock, and makes no borrower wait.

        Example:
            >>> from resilience import Pool
            >>> pool = Pool(object, maximum_pool_size=2)
            >>> with pool.connection():
            ...     snapshot = pool.snapshot()
            >>> snapshot["in_use"], snapshot["maximum_pool_size"]
            (1, 2)
        """
        return self._core.snapshot()

    def __repr__(self) -> str:
        machine = self._core.machine
        return f"<{type(self).__name__} {self.name!r} {machine.in_use}/{machine.maximum} in use, {machine.state.value}>"
