"""The connection pools of a toolkit by name: their settings, health checks, start and end."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from resilience.clock import monotonic
from resilience.config._names import fold
from resilience.config._schema import section
from resilience.errors import ConfigurationError, Problem
from resilience.pool import AsyncPool, Pool
from resilience.pool._core import PoolArguments
from resilience.toolkit._names import check_name

if TYPE_CHECKING:
    from resilience.config import Config
    from resilience.events import Event, EventLog
    from resilience.health import Health
    from resilience.lifecycle import Lifecycle
    from resilience.toolkit._parts import NamedParts

__all__ = ("PoolSettings", "PoolsByName")

_POOL = "pool"
_CLOSE_WITHIN = 5.0
"""Seconds in which all pools together close. Connections that are still in use then are aborted."""
_MARGIN = 1.0
"""Seconds that a start hook has beyond the longest start of its pool, whose own error says more."""

ThreadsPool: TypeAlias = Pool[Any]
TasksPool: TypeAlias = AsyncPool[Any]
AnyPool: TypeAlias = ThreadsPool | TasksPool
P = TypeVar("P", ThreadsPool, TasksPool)

Callback: TypeAlias = Callable[..., object]


class PoolSettings(PoolArguments, total=False):
    """The arguments of a pool besides its name and `connect`; `Pool` and `AsyncPool` explain them."""

    close: Callback | None
    abort: Callback | None
    check: Callback | None
    reset: Callback | None
    breaker: object


_ARGUMENTS = sorted(PoolSettings.__annotations__)
_OPTIONS = PoolArguments.__annotations__.keys()


class PoolsByName:
    """Makes the pool of a name, and closes all pools.

    Args:
        config: The configuration.
        parts: Keeps the pools.
        log: Decides which events of the pools are logged.
    """

    def __init__(self, config: Config, parts: NamedParts, log: EventLog) -> None:
        self._config, self._parts, self._log = config, parts, log
        self._lifecycle: Lifecycle | None = None

    def of_threads(self, name: str, connect: object, arguments: Mapping[str, object]) -> ThreadsPool:
        """Return the pool of this name; see `Resilience.pool`."""
        return self._named(Pool, name, connect, arguments)

    def of_tasks(self, name: str, connect: object, arguments: Mapping[str, object]) -> TasksPool:
        """Return the pool of this name; see `Resilience.async_pool`."""
        pool = self._named(AsyncPool, name, connect, arguments)
        if pool.loop is not None and pool.loop.is_closed() and not pool.is_closed:
            pool.reopen()
        return pool

    def _named(self, kind: type[P], name: str, connect: object, arguments: Mapping[str, object]) -> P:
        check_name(_POOL, name)
        self._check_kind(kind, name)
        is_lookup = connect is None and not arguments
        given = () if is_lookup else (connect, *(arguments.get(argument) for argument in _ARGUMENTS))
        return self._parts.named(_POOL, name, lambda: self._new(kind, name, connect, arguments), given)

    @property
    def _pools(self) -> list[AnyPool]:
        return self._parts.of(_POOL)

    def _check_kind(self, kind: type[AnyPool], name: str) -> None:
        for pool in self._pools:
            if fold(pool.name) == fold(name) and not isinstance(pool, kind):
                known, wanted = type(pool).__name__, kind.__name__
                raise ConfigurationError(f"pool {name!r} is already one of {known}: name the {wanted} differently")

    # Making a pool

    def _new(self, kind: type[P], name: str, connect: object, arguments: Mapping[str, object]) -> P:
        if connect is None:
            expected = f"a function that connects, or a Connector, when pool {name!r} is first asked for"
            raise ConfigurationError([Problem("connect", None, expected)])
        values = {**self._config.pool(name), **arguments}
        if "breaker" not in arguments:
            values["breaker"] = self._configured_breaker(name)
        try:
            pool = cast("Any", kind)(connect, name=name, **values)  # the constructor checks all arguments
        except ConfigurationError as error:
            raise self._under_sources(error, name, arguments) from None
        pool = cast("P", pool)
        pool.events.log_to(self._log)
        for lifecycle in self._parts.of("lifecycle"):
            self._live_with(lifecycle, pool)
        for health in self._parts.of("health"):
            self._add_check(health, pool)
        return pool

    def _configured_breaker(self, name: str) -> object:
        options = self._config.pool_breaker(name)
        if options is None:
            return None
        values = {field: getattr(options, field) for field in options.fields() if field != "shared"}
        breaker = section("pool.*.breaker").constructor(**values, name=f"{name}.connect")
        breaker.events.log_to(self._log)
        return breaker

    def _under_sources(
        self, error: ConfigurationError, name: str, arguments: Mapping[str, object]
    ) -> ConfigurationError:
        """Return the error with the names of variables in place of the options that they set."""
        sources = self._config.pool_sources(name)
        problems = [
            Problem(sources.get(problem.option, problem.option), problem.value, problem.expected, problem.hint)
            if problem.option not in arguments
            else problem
            for problem in error.problems
        ]
        return ConfigurationError(problems) if problems else error

    # Health

    def check_in(self, health: Health) -> None:
        """Add the checks of the pools to new health checks."""
        for pool in self._pools:
            self._add_check(health, pool)

    def _add_check(self, health: Health, pool: AnyPool) -> None:
        taken = {name for group in health.groups() for name in health.names(group)}
        check = section("pool.*.health").constructor(pool, **self._config.pool_health(pool.name))
        health.add(next(name for name in _check_names(pool.name) if name not in taken), check)

    # Start and end

    def live_with(self, lifecycle: Lifecycle) -> None:
        """Let the pools start with a new lifecycle."""
        for pool in self._pools:
            self._live_with(lifecycle, pool)

    def _live_with(self, lifecycle: Lifecycle, pool: AnyPool) -> None:
        if self._lifecycle is None:
            self._lifecycle = lifecycle
            lifecycle.events.subscribe(self._on_event)
        if lifecycle.is_ready:
            self._begin(pool)
        limit = pool.options.initialization_fail_timeout
        if limit is not None and lifecycle.state in {"starting", "stopped"}:
            longest = limit + pool.options.connect_timeout + _MARGIN
            lifecycle.on_start(
                _start_of(pool, lifecycle), name=f"pool {pool.name}"[:63], timeout=longest, required=True
            )

    def _on_event(self, event: Event) -> None:
        if event.kind == "lifecycle.started":
            for pool in self._pools:
                self._begin(pool)

    def _begin(self, pool: AnyPool) -> None:
        """Let a pool lend, and make its idle connections in the background."""
        if pool.is_closed:  # by the end of the previous life
            pool.reopen()
        if pool.options.initialization_fail_timeout is not None:  # its start waits, and is a hook
            return
        loop = None if self._lifecycle is None else self._lifecycle.server.loop
        if isinstance(pool, Pool):
            pool.start()
        elif loop is not None and loop.is_running():
            loop.call_soon_threadsafe(lambda: loop.create_task(pool.start()))

    def close(self) -> None:
        """Close the pools, the last one that was made first. Async pools end in their loops."""
        with contextlib.ExitStack() as stack:  # each one closes
            for pool, left in self._to_close():
                stack.callback(_close, pool, left)

    async def aclose(self) -> None:
        """Close the pools without blocking the event loop."""
        async with contextlib.AsyncExitStack() as stack:
            for pool, left in self._to_close():
                stack.push_async_callback(_aclose, pool, left)

    def _to_close(self) -> Iterator[tuple[AnyPool, Callable[[], float]]]:
        until = monotonic() + min(_CLOSE_WITHIN, self._config.lifecycle.hook_timeout / 2)
        for pool in self._pools:
            if not pool.is_closed:
                yield pool, lambda: max(0.0, until - monotonic())


def _check_names(name: str) -> Iterator[str]:
    """Yield names for the check of a pool, of which the first free one is taken."""
    plain = "pool." + re.sub(r"[^A-Za-z0-9._-]", "-", name)
    yield plain[:63]
    number = 2
    while True:
        yield f"{plain[:58]}-{number}"
        number += 1


def _start_of(pool: AnyPool, lifecycle: Lifecycle) -> Callable[[], object]:
    """Return the start hook of a pool."""

    def start() -> None:
        if pool.is_closed:
            pool.reopen()
        cast("ThreadsPool", pool).start()

    async def astart() -> None:
        if lifecycle.server.loop is None:  # blocking code starts the service: this loop is not that of the borrowers
            return
        if pool.is_closed:
            pool.reopen()
        await cast("TasksPool", pool).start()

    return start if isinstance(pool, Pool) else astart


def _close(pool: AnyPool, left: Callable[[], float]) -> None:
    if isinstance(pool, Pool):
        pool.close(left())
    else:
        pool.close_from_thread(left())


async def _aclose(pool: AnyPool, left: Callable[[], float]) -> None:
    import asyncio  # noqa: PLC0415 - it costs 40 ms; the code that awaits this has imported it already

    if isinstance(pool, AsyncPool) and pool.loop in {None, asyncio.get_running_loop()}:
        await pool.close(left())
    else:
        await asyncio.to_thread(_close, pool, left)
