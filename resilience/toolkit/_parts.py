"""The parts of a toolkit by kind and name, each built when it is first used."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from resilience._support.fork import renew_after_fork
from resilience.config._names import fold
from resilience.config._schema import section
from resilience.errors import ConfigurationError
from resilience.toolkit._openings import open_page, open_redis

if TYPE_CHECKING:
    from resilience.config import Config
    from resilience.envelope import ErrorCatalog
    from resilience.events import EventLog
    from resilience.health import Health
    from resilience.lifecycle import Lifecycle
    from resilience.prometheus import MetricsPage
    from resilience.ratelimit import Store
    from resilience.redis import RedisConnection
    from resilience.toolkit._listeners import PluggedListener
    from resilience.toolkit._pools import PoolsByName

__all__ = ("NamedParts", "OpenPart", "SharedParts")

T = TypeVar("T")

_OPEN = ("redis", "health", "listener", "pools")
"""The kinds of parts that hold connections or background work."""


class OpenPart(Protocol):
    """A part that holds connections or background work."""

    def close(self) -> None:
        """Release them. A second call does nothing."""
        ...

    async def aclose(self) -> None:
        """Release them without blocking the event loop."""
        ...


class NamedParts:
    """Builds each part once, and returns it to every caller. Names are folded."""

    def __init__(self) -> None:
        self._built: dict[tuple[str, str], tuple[object, tuple[object, ...]]] = {}
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Replace the lock: another thread may have held it at the moment of the fork."""
        self._lock = threading.RLock()  # guards `_built`; only constructors of this library run under it

    def once(self, what: str, build: Callable[[], T]) -> T:
        """Return the only part of its kind."""
        return self.named(what, what, build)

    def named(self, kind: str, name: str, build: Callable[[], T], given: tuple[object, ...] = ()) -> T:
        """Return the part of this kind and name, or build it. `given` are the values that a caller gives for it.

        Raises:
            ConfigurationError: The part exists, and was given other values.
        """
        with self._lock:
            known = self._built.get((kind, fold(name)))
            if known is None:
                known = self._built[kind, fold(name)] = (build(), given)
        thing, before = known
        if not _agree(given, before):
            reason = "already in use with other values; give them where it is first asked for"
            raise ConfigurationError(f"{kind} {name!r} is {reason}")
        return cast("T", thing)

    def keep_listener(self, listener: PluggedListener) -> None:
        """Keep a listener, which was made elsewhere: the code of a plugin must not run under the lock."""
        self.named("listener", listener.name, lambda: listener)

    def given(self, kind: str, name: str) -> tuple[Any, ...]:
        """Return the values that were given for a part; empty if it was built without values, or does not exist."""
        with self._lock:
            return self._built.get((kind, fold(name)), (None, ()))[1]

    def has(self, kind: str, name: str) -> bool:
        """Whether the part exists."""
        with self._lock:
            return (kind, fold(name)) in self._built

    def of(self, *kinds: str) -> list[Any]:
        """Return the parts of these kinds in the order in which they were built."""
        with self._lock:
            return [thing for (kind, _), (thing, _) in self._built.items() if kind in kinds]

    def open_parts(self) -> list[OpenPart]:
        """Return the parts that hold connections or background work, in the order in which they were built."""
        return self.of(*_OPEN)


def _agree(given: tuple[object, ...], before: tuple[object, ...]) -> bool:
    """Whether a further call gives no values, or the values of the first call."""
    if not given:
        return True
    return len(given) == len(before) and all(
        now is None or now == then for now, then in zip(given, before, strict=True)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class SharedParts:
    """Builds the parts of which a toolkit has one, and imports each when it is first used.

    Args:
        config: The configuration.
        parts: Keeps the parts.
        log: Decides which events of the parts are logged.
    """

    _config: Config
    _parts: NamedParts
    _log: EventLog

    @property
    def redis(self) -> RedisConnection | None:
        """The connection to Redis; None if no URL is set."""
        if self._config.redis.url is None:
            return None
        return self._parts.once("redis", lambda: open_redis(self._config.redis))

    def store(self) -> Store | None:
        """Return the store of the limiters; None for the memory of this process."""
        connection = self.redis
        if connection is None:
            return None

        def build() -> Store:
            from resilience.ratelimit import RedisStore  # noqa: PLC0415 - imported by services with a URL

            store = RedisStore(connection)
            store.events.log_to(self._log)
            return store

        return self._parts.once("store", build)

    @property
    def metrics(self) -> MetricsPage | None:
        """The metrics page of this process; None if no setting opens it."""
        if not self._config.metrics.is_open:
            return None
        return self._parts.once("metrics", lambda: open_page(self._config.metrics))

    @property
    def pools(self) -> PoolsByName:
        """The connection pools by name."""

        def build() -> PoolsByName:
            from resilience.toolkit._pools import PoolsByName as Pools  # noqa: PLC0415 - imported by services with pools

            return Pools(self._config, self._parts, self._log)

        return self._parts.once("pools", build)

    @property
    def catalog(self) -> ErrorCatalog:
        """The error codes."""

        def build() -> ErrorCatalog:
            from resilience.envelope import ErrorCatalog as Catalog  # noqa: PLC0415 - imported by services that name errors

            return Catalog(domain=self._config.service.name)

        return self._parts.once("catalog", build)

    def new_lifecycle(self) -> Lifecycle:
        """Return a lifecycle with the configured options, which starts the pools."""
        lifecycle = cast("Lifecycle", section("lifecycle").constructor(self._config.lifecycle))
        lifecycle.events.log_to(self._log)
        for pools in self._parts.of("pools"):
            pools.live_with(lifecycle)
        return lifecycle

    def new_health(self, lifecycle: Lifecycle) -> Health:
        """Return the health checks of the process, with those of Redis, if a URL is set, and of the pools."""
        from resilience.health import Health, redis_check  # noqa: PLC0415 - imported by services that answer probes

        health = Health(self._config.health, lifecycle=lifecycle)
        health.events.log_to(self._log)
        if self.redis is not None:
            health.add("redis", redis_check(self.redis))
        if self.metrics is not None and self._config.metrics.endpoint:
            health.mount("/metrics", self.metrics)
        for pools in self._parts.of("pools"):
            pools.check_in(health)
        return health
