"""The object that an application holds: pipelines, limiters, health, lifecycle and error codes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from resilience._support.redaction import hidden
from resilience.config import Config, load
from resilience.config._load import variables_in_force
from resilience.errors import ConfigurationError, Problem
from resilience.toolkit._default import KeptWhileEqual
from resilience.toolkit._listeners import ToolkitLog, use_listeners
from resilience.toolkit._names import check_name, checked_config
from resilience.toolkit._parts import NamedParts
from resilience.toolkit._pipelines import PipelinesByName
from resilience.toolkit._policies import ConfiguredPolicies
from resilience.toolkit._shared_parts import SharedParts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
    from types import TracebackType
    from typing import Unpack

    from resilience.budget import RetryBudget
    from resilience.envelope import ErrorCatalog
    from resilience.events import Listener
    from resilience.health import Health
    from resilience.lifecycle import Lifecycle
    from resilience.pipeline import Pipeline
    from resilience.policy import AroundPolicy, Policy
    from resilience.pool import AsyncPool, Connector, Pool
    from resilience.prometheus import MetricsPage
    from resilience.ratelimit import TokenBucket
    from resilience.redis import RedisConnection
    from resilience.toolkit._pools import PoolSettings

__all__ = ("Resilience",)

C = TypeVar("C")


class Resilience:
    """The pipelines, limiters, health checks, lifecycle and error codes of one service.

    Each part is built, and imported, when it is first used. `Resilience.from_env()` reads variables and a file;
    `Resilience()` uses the defaults. Threads and tasks can share the object: the same name always returns the same
    part. Close it when the service ends, or use it in a `with` or `async with` block.

    Args:
        config: The settings, as `resilience.config.load()` returns them. Default: all defaults.

    Raises:
        ConfigurationError: `config` is not a `Config`, or a retry budget cannot be configured as it says.
        PluginError: A listener that the settings name cannot be loaded.

    Example:
        >>> toolkit = Resilience.from_env({"RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATTEMPTS": "4"})
        >>> [policy.name for policy in toolkit.pipeline("payments").policies]
        ['payments.retry']
    """

    __slots__ = (
        "__weakref__",
        "_budgets",
        "_config",
        "_parts",
        "_pipelines",
        "_policies",
        "_shared",
        "event_log",
    )  # none is set by mistake

    def __init__(self, config: Config | None = None) -> None:
        self._config = Config() if config is None else checked_config(config)
        self.event_log = ToolkitLog(self._config.log)
        """Decides which events of this toolkit's parts are logged."""
        self._parts = NamedParts()
        self._shared = SharedParts(self._config, self._parts, self.event_log)
        self._policies = ConfiguredPolicies(self._config, self._shared, self.event_log)
        self._pipelines = PipelinesByName(self._config, self._policies, self._parts, self.event_log)
        # The process keeps a budget for as long as an object refers to it.
        self._budgets = [self._shared.configured_budget(name) for name in self._config.budgets]
        if names := self._config.events.listeners:  # the first parts to be made are the last to be closed
            use_listeners(names, self, self._parts.keep_listener, self.event_log.subscribe)

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, *, strict: bool | None = None, **arguments: Any
    ) -> Resilience:
        """Return a toolkit with the settings of the environment.

        Args:
            environ: A mapping of variables. Default: the environment of the process at the time of the call.
            strict: Whether an unknown variable or key is an error. Default: `RESILIENCE_STRICT`, else it is a warning.
            arguments: Settings by section, such as `service={"name": "orders"}`. They come before the environment.

        Raises:
            ConfigurationError: At least one setting is wrong. The error lists every problem.
            PluginError: A listener that the settings name cannot be loaded.
        """
        environ, arguments = hidden(environ), hidden(arguments)  # error trackers show the local variables
        toolkit = cls(load(environ, strict=strict, arguments=arguments))
        try:
            if toolkit.config.redis.url is not None:
                _ = toolkit.redis  # a wrong URL, or a missing extra, stops the start and not a call
        except BaseException:
            toolkit.close()  # a listener may have a thread by now
            raise
        if (path := toolkit.config.status.socket) is not None:
            from resilience.status import PROCESS  # noqa: PLC0415 - imported by services with a status socket

            PROCESS.show(path, toolkit)
        return toolkit

    @classmethod
    def default(cls) -> Resilience:
        """Return the toolkit of this process for clients that are given none.

        It is made by `from_env()` at the first call, and again when a variable of ours has changed or after it was
        closed. So clients that are made per request share circuits, limits and connections. A client keeps the toolkit
        that it got.

        Raises:
            ConfigurationError: At least one setting of the environment is wrong.

        Example:
            >>> Resilience.default() is Resilience.default()
            True
        """
        return _default.get(variables_in_force(), Resilience.from_env)

    @staticmethod
    def forget_default() -> None:
        """Have the next call of `default()` make a new toolkit. Tests call this, so that they share no state."""
        _default.forget()

    @classmethod
    def of(cls, given: Resilience | None) -> Resilience:
        """Return `given`, or `from_env()` if it is None. An adapter of a server calls this with its argument.

        Raises:
            ConfigurationError: `given` is neither a `Resilience` nor None.
        """
        wanted: object = given
        if not (wanted is None or isinstance(wanted, Resilience)):  # only its type is shown: it may hold a password
            raise ConfigurationError([Problem("resilience", type(wanted).__name__, "a Resilience, or None")])
        return cls.from_env() if wanted is None else wanted

    @property
    def config(self) -> Config:
        """The settings, with the source of every value."""
        return self._config

    @property
    def health(self) -> Health:
        """The health checks of this process."""
        return self._parts.once("health", self._new_health)

    @property
    def metrics(self) -> MetricsPage | None:
        """The metrics page of this process for Prometheus; None unless `RESILIENCE_METRICS__...` opens it."""
        return self._shared.metrics

    @property
    def lifecycle(self) -> Lifecycle:
        """The phase of this process, and the hooks that run when it starts and stops."""
        return self._parts.once("lifecycle", self._new_lifecycle)

    def _new_lifecycle(self) -> Lifecycle:
        lifecycle = self._shared.new_lifecycle()
        lifecycle.close_on_stop(self, name="toolkit")  # the first to be added is the last to run
        return lifecycle

    @property
    def redis(self) -> RedisConnection | None:
        """The connection to the Redis that instances share; None if no URL is set. It connects when first used."""
        return self._shared.redis

    @property
    def catalog(self) -> ErrorCatalog:
        """The error codes that this service can send to its clients."""
        return self._shared.catalog

    def pipeline(self, name: str, *policies: Policy | AroundPolicy, host: str | None = None) -> Pipeline:
        """Return the pipeline of this name; use it as a decorator, or in any other way a `Pipeline` is used.

        The pipeline holds the configured policies in the recommended order, and `policies`. If neither exist, the
        pipeline guards nothing and its calls pass through unchanged. That is a `ConfigurationWarning`: the name may be
        misspelt, or the configuration may be missing.

        The HTTP and gRPC clients of this name have circuits, limits and bulkheads for each host, which all of them
        share. `subscribe` and `snapshot` of the pipeline include them. A function that calls such a host by other means
        uses them too if `host` is given.

        Args:
            name: The name of the pipeline, 1 to 100 characters.
            policies: Policies from code, the first one outermost. Each replaces the configured policy of its kind.
            host: The host that the functions call, as clients name it: `api.bank.example`, with the port unless it is
                the default port; the `target` of a gRPC channel. Default: no host. Not beside `policies`.

        Raises:
            ConfigurationError: The name is already in use with other policies; or the toolkit is strict and the name
                is the cause for the warning.
        """
        return self._pipelines.pipeline(name, policies, host)

    def client_pipeline(
        self,
        name: str,
        host: Callable[..., Hashable] | str,
        *,
        retry_on: Callable[[Exception], bool] | type[Exception] = Exception,
        exclude: Iterable[type[Exception]] = (),
        hedge: str = "",
    ) -> Pipeline:
        """Return the pipeline of an HTTP or gRPC client. Each call with equal arguments returns the same pipeline.

        It has the configured policies, and below them those that every client has: a retry and a circuit breaker.
        Policies from code, given to `pipeline(name, ...)`, stand as they are, without these defaults. Breakers, rate
        limits and bulkheads are one for each host. All clients of the name share them, of whatever library.

        Args:
            name: The name of the pipeline.
            host: A function that takes the arguments of a call and returns its host; or the host of all calls.
            retry_on: The errors of the library after which another attempt may succeed: a class, or a predicate.
            exclude: Classes of errors that say nothing about the host. Breakers do not count them.
            hedge: The name of a configured hedge, which learns its delay under this name. Default: `<name>.hedge`.

        Raises:
            ConfigurationError: The name cannot be that of a pipeline.
        """
        from resilience.toolkit._clients import ClientUse  # noqa: PLC0415 - imported by services with clients

        return self._pipelines.of_client(name, ClientUse(host, retry_on, tuple(exclude), hedge))

    def existing_pipeline(self, name: str) -> Pipeline:
        """Return the pipeline of this name, if it is configured, inherits a policy, or has policies from code.

        Use this for a name that a user of your code writes: a misspelt name would guard nothing.

        Raises:
            ConfigurationError: No such pipeline exists. The error lists the names that exist.
        """
        return self._pipelines.existing(name)

    def policies(self, name: str, *, key: str = "") -> tuple[Any, ...]:
        """Return new policies, as configured for the pipeline of this name.

        Use this for one set of policies per host or method. The policies share no state with `pipeline(name)` or with
        the policies of another call.

        Args:
            name: The name of the pipeline.
            key: The key of the bucket that the rate limits spend from. Default: the name of the pipeline.
        """
        return tuple(self._policies.of_pipeline(name, key))

    def limiter(self, name: str, rate: str | None = None, burst: int | None = None) -> TokenBucket:
        """Return the limiter of this name: on Redis if `RESILIENCE_REDIS__URL` is set, else in this process.

        Args:
            name: The name of the limiter, 1 to 100 characters.
            rate: Such as `"100/minute"`. Default: the configured rate. An argument comes before a setting.
            burst: The most tokens that the bucket holds. Default: the configured burst, else the number in the rate.

        Raises:
            ConfigurationError: No rate is given or configured, or the name is already in use with another rate.
        """
        check_name("limiter", name)
        return self._parts.named("limiter", name, lambda: self._policies.of_limiter(name, rate, burst), (rate, burst))

    @overload
    def pool(self, name: str) -> Pool[Any]: ...
    @overload
    def pool(
        self, name: str, connect: Callable[[], C] | Connector[C], **arguments: Unpack[PoolSettings]
    ) -> Pool[C]: ...
    def pool(self, name: str, connect: Any = None, **arguments: Any) -> Pool[Any]:
        """Return the connection pool of this name, for threads. It is made at the first call.

        Readiness has a check of it, `pool.<name>`. The pool starts with the lifecycle, and closes after the last
        request. With `initialization_fail_timeout`, it adds a start hook: a process that cannot connect does not start.

        Args:
            name: The name of the pool, 1 to 100 characters.
            connect: Returns a new connection; or a `Connector`. Further calls need no argument but the name.
            arguments: Those of `Pool`. Each comes before the setting `RESILIENCE_POOL__<NAME>__<OPTION>`. Default for
                `breaker`: as configured under `RESILIENCE_POOL__<NAME>__BREAKER__...`, else none.

        Raises:
            ConfigurationError: An argument or a setting is wrong; or the name is in use with other arguments, or for an
                `AsyncPool`; or the first call has no `connect`.
        """
        return self._shared.pools.of_threads(name, connect, arguments)

    @overload
    def async_pool(self, name: str) -> AsyncPool[Any]: ...
    @overload
    def async_pool(
        self, name: str, connect: Callable[[], Awaitable[C]] | Connector[C], **arguments: Unpack[PoolSettings]
    ) -> AsyncPool[C]: ...
    def async_pool(self, name: str, connect: Any = None, **arguments: Any) -> AsyncPool[Any]:
        """Return the connection pool of this name, for the tasks of one event loop.

        If that loop has ended, this call gives the pool to the next loop. For the arguments see `pool`.
        """
        return self._shared.pools.of_tasks(name, connect, arguments)

    def budget(self, name: str) -> RetryBudget:
        """Return the retry budget that all retries and hedges of this process share under this name."""
        from resilience.budget import RetryBudget  # noqa: PLC0415 - imported by services that share a budget

        return RetryBudget(name)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Send every event of every part to `listener`: of those that exist, and of those that are made later.

        These are the policies of pipelines and clients, those of each key or host included, the limiters, the limits of
        servers, Redis, health and lifecycle. Budgets belong to the process; their events come from the retries.

        Returns:
            A function that ends this.
        """
        return self.event_log.subscribe(listener)

    def snapshot(self) -> dict[str, Any]:
        """Return the state of every part that this toolkit has built, as plain data that `json.dumps` accepts.

        `pipelines` has the state of each policy, and under `clients` the circuits, limits and bulkheads of HTTP and
        gRPC clients by host; `limiters`, `pools`, `budgets`, `checks` (their last outcomes), `lifecycle` and `redis`
        have the others. `redis` has the id of this instance and the number of live ones, if it takes part in the
        fleet. At most 200 of each are shown, and 100 hosts of a policy, first circuits that are not closed.

        It changes no state, takes no permit, runs no check and sends nothing. It has no secrets.

        Example:
            >>> toolkit = Resilience.from_env({"RESILIENCE_PIPELINE__PAYMENTS__BREAKER__FAIL_MAX": "3"})
            >>> _ = toolkit.pipeline("payments")
            >>> [policy["state"] for policy in toolkit.snapshot()["pipelines"][0]["policies"]]
            ['closed']
        """
        from resilience.toolkit._snapshot import parts_snapshot, redis_snapshot  # noqa: PLC0415 - most processes take none

        redis = redis_snapshot(self._parts) if self._config.redis.url is not None else None
        return {"service": self._config.service.name, "redis": redis, **parts_snapshot(self._parts, self._budgets)}

    def close(self) -> None:
        """Close connections and background work. A second call does nothing."""
        self._retire()
        with contextlib.ExitStack() as stack:  # the last part that was built closes first; each one closes
            for part in self._parts.open_parts():
                stack.callback(part.close)

    async def aclose(self) -> None:
        """Close connections and background work without blocking the event loop. A second call does nothing."""
        self._retire()
        async with contextlib.AsyncExitStack() as stack:
            for part in self._parts.open_parts():
                stack.push_async_callback(part.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"Resilience({self._config!r})"

    def _new_health(self) -> Health:
        return self._shared.new_health(self.lifecycle)

    def _retire(self) -> None:
        """Be no longer the default toolkit, and be shown no more."""
        _default.forget(self)
        if (path := self._config.status.socket) is not None:
            from resilience.status import PROCESS  # noqa: PLC0415 - imported by services with a status socket

            PROCESS.hide(path, self)


_default: KeptWhileEqual[Resilience] = KeptWhileEqual()
