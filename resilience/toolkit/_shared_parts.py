"""The parts of which a toolkit has one: Redis and its store, pools, metrics page, health, lifecycle and catalogue."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, cast

from resilience.config._schema import section
from resilience.toolkit._openings import open_page, open_redis

if TYPE_CHECKING:
    from resilience.budget import BudgetOptions, RetryBudget
    from resilience.config import Config
    from resilience.envelope import ErrorCatalog
    from resilience.events import EventLog
    from resilience.health import Health
    from resilience.lifecycle import Lifecycle
    from resilience.prometheus import MetricsPage
    from resilience.ratelimit import Store
    from resilience.redis import RedisConnection
    from resilience.toolkit._parts import NamedParts
    from resilience.toolkit._pools import PoolsByName

__all__ = ("SharedParts",)


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
        return self._parts.once("redis", self._open_redis)

    def _open_redis(self) -> RedisConnection:
        connection = open_redis(self._config.redis)
        from resilience.fleet import Fleet  # noqa: PLC0415 - imported by services with a URL

        Fleet.of(connection).events.log_to(self._log)  # starts nothing: shared parts join by themselves
        return connection

    def configured_budget(self, name: str) -> RetryBudget:
        """Return the retry budget of this name with its settings, shared if they say so."""
        from resilience.budget import RetryBudget  # noqa: PLC0415 - imported by services that share a budget

        budget = RetryBudget(name)
        budget.configure(cast("BudgetOptions", self._config.budget(name)))
        if budget.options.shared and (connection := self.redis) is not None:
            budget.share(connection)
        return budget

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
