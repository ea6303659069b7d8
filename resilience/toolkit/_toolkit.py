"""The object that an application holds: pipelines, limiters, health, lifecycle and error codes."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

from resilience._support.fork import renew_after_fork
from resilience._support.redaction import hidden
from resilience.config import Config, load
from resilience.config._names import fold, variable
from resilience.config._problems import Missing, NoPipeline
from resilience.config._schema import DEFAULT, section
from resilience.config._warning import warn
from resilience.errors import ConfigurationError, Problem
from resilience.events import EventLog
from resilience.pipeline import Pipeline
from resilience.toolkit._machine import compose
from resilience.toolkit._names import check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from resilience.budget import BudgetOptions, RetryBudget
    from resilience.envelope import ErrorCatalog
    from resilience.health import Health
    from resilience.lifecycle import Lifecycle
    from resilience.options import Options
    from resilience.policy import AroundPolicy, Policy
    from resilience.ratelimit import Store, TokenBucket
    from resilience.redis import RedisConnection

__all__ = ("Resilience",)

T = TypeVar("T")

_OPEN = frozenset({"redis", "health"})
"""The parts that hold connections or background work."""


class _OpenPart(Protocol):
    """A part that holds connections or background work."""

    def close(self) -> None:
        """Release them. A second call does nothing."""
        ...

    async def aclose(self) -> None:
        """Release them without blocking the event loop."""
        ...


class Resilience:
    """The pipelines, limiters, health checks, lifecycle and error codes of one service.

    Each part is built, and imported, when it is first used. `Resilience.from_env()` reads variables and a file;
    `Resilience()` uses the defaults. Threads and tasks can share the object: the same name always returns the same
    part. Close it when the service ends, or use it in a `with` or `async with` block.

    Args:
        config: The settings, as `resilience.config.load()` returns them. Default: all defaults.

    Raises:
        ConfigurationError: `config` is not a `Config`, or a retry budget cannot be configured as it says.

    Example:
        >>> toolkit = Resilience.from_env({"RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATTEMPTS": "4"})
        >>> [policy.name for policy in toolkit.pipeline("payments").policies]
        ['payments.retry']
    """

    __slots__ = ("__weakref__", "_budgets", "_built", "_config", "_lock", "event_log")  # none is set by mistake

    def __init__(self, config: Config | None = None) -> None:
        self._config = Config() if config is None else _checked_config(config)
        self._built: dict[tuple[str, str], tuple[Any, tuple[Any, ...]]] = {}
        self.event_log = EventLog(self._config.log)
        """Decides which events of this toolkit's parts are logged."""
        self.after_fork()
        renew_after_fork(self)
        # The process keeps a budget for as long as an object refers to it.
        self._budgets = [self._as_configured(name) for name in self._config.budgets]

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
        """
        environ, arguments = hidden(environ), hidden(arguments)  # error trackers show the local variables
        toolkit = cls(load(environ, strict=strict, arguments=arguments))
        _ = toolkit.redis  # a wrong URL, or a missing extra, stops the start and not a call
        return toolkit

    @classmethod
    def of(cls, given: Resilience | None) -> Resilience:
        """Return `given`, or `from_env()` if it is None. An adapter calls this with its argument.

        Raises:
            ConfigurationError: `given` is neither a `Resilience` nor None.
        """
        wanted: Any = given
        if not (wanted is None or isinstance(wanted, Resilience)):  # only its type is shown: it may hold a password
            raise ConfigurationError([Problem("resilience", type(wanted).__name__, "a Resilience, or None")])
        return cls.from_env() if wanted is None else wanted

    def after_fork(self) -> None:
        """Replace the lock: another thread may have held it at the moment of the fork."""
        self._lock = threading.RLock()  # guards `_built`; only constructors of this library run under it

    @property
    def config(self) -> Config:
        """The settings, with the source of every value."""
        return self._config

    @property
    def health(self) -> Health:
        """The health checks of this process."""
        return self._once("health", self._new_health)

    @property
    def lifecycle(self) -> Lifecycle:
        """The phase of this process, and the hooks that run when it starts and stops."""
        return self._once("lifecycle", self._new_lifecycle)

    def _new_lifecycle(self) -> Lifecycle:
        lifecycle = cast("Lifecycle", section("lifecycle").constructor(self._config.lifecycle))
        lifecycle.events.log_to(self.event_log)
        lifecycle.close_on_stop(self, name="toolkit")  # the first to be added is the last to run
        return lifecycle

    @property
    def redis(self) -> RedisConnection | None:
        """The connection to the Redis that instances share; None if no URL is set. It connects when first used."""
        if self._config.redis.url is None:
            return None
        return self._once("redis", self._new_redis)

    @property
    def catalog(self) -> ErrorCatalog:
        """The error codes that this service can send to its clients."""

        def build() -> ErrorCatalog:
            from resilience.envelope import ErrorCatalog as Catalog  # noqa: PLC0415 - imported by services that name errors

            return Catalog(domain=self._config.service.name)

        return self._once("catalog", build)

    def pipeline(self, name: str, *policies: Policy | AroundPolicy) -> Pipeline:
        """Return the pipeline of this name; use it as a decorator, or in any other way a `Pipeline` is used.

        The pipeline holds the configured policies in the recommended order, and `policies`. If neither exist, calls
        pass through unchanged; if other pipelines are configured, that is a `ConfigurationWarning`, because the name
        may be misspelt.

        Args:
            name: The name of the pipeline, 1 to 100 characters.
            policies: Policies from code, the first one outermost. Each replaces the configured policy of its kind.

        Raises:
            ConfigurationError: The name is already in use with other policies; or the toolkit is strict and the name
                is the cause for the warning.
        """
        check_name("pipeline", name)
        if not policies and self._config.pipelines and (problem := self._missing_pipeline(name)) is not None:
            if self._config.is_strict:
                raise ConfigurationError([problem])
            warn(f"{problem}, so its calls pass through unchanged. RESILIENCE_STRICT=true refuses it")
        build = lambda: self.adopt(Pipeline(name, *compose(policies, self._configured(name))))  # noqa: E731 - two uses of one line
        return self._named(("pipeline", name), build, policies)

    def adopt(self, pipeline: Pipeline) -> Pipeline:
        """Return `pipeline`, whose events are from now on logged as the section `log` of this toolkit says.

        Adapters call this for the pipelines that they make.

        Args:
            pipeline: A pipeline.
        """
        pipeline.log_to(self.event_log)
        return pipeline

    def existing_pipeline(self, name: str) -> Pipeline:
        """Return the pipeline of this name, if it is configured, inherits a policy, or has policies from code.

        Use this for a name that a user of your code writes: a misspelt name would guard nothing.

        Raises:
            ConfigurationError: No such pipeline exists. The error lists the names that exist.
        """
        check_name("pipeline", name)
        if (problem := self._missing_pipeline(name)) is not None:
            raise ConfigurationError([problem])
        return self.pipeline(name)

    def policies(self, name: str, *, key: str = "") -> tuple[Any, ...]:
        """Return new policies, as configured for the pipeline of this name.

        Use this for one set of policies per host or method. The policies share no state with `pipeline(name)` or with
        the policies of another call.

        Args:
            name: The name of the pipeline.
            key: The key of the bucket that the rate limits spend from. Default: the name of the pipeline.
        """
        return tuple(self._configured(name, key))

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
        return self._named(("limiter", name), lambda: self._bucket(name, rate, burst), (rate, burst))

    def budget(self, name: str) -> RetryBudget:
        """Return the retry budget that all retries and hedges of this process share under this name."""
        from resilience.budget import RetryBudget  # noqa: PLC0415 - imported by services that share a budget

        return RetryBudget(name)

    def close(self) -> None:
        """Close connections and background work. A second call does nothing."""
        with contextlib.ExitStack() as stack:  # the last part that was built closes first; each one closes
            for part in self._open_parts():
                stack.callback(part.close)

    async def aclose(self) -> None:
        """Close connections and background work without blocking the event loop. A second call does nothing."""
        async with contextlib.AsyncExitStack() as stack:
            for part in self._open_parts():
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

    def _once(self, what: str, build: Callable[[], T]) -> T:
        return self._named((what, what), build, ())

    def _named(self, key: tuple[str, str], build: Callable[[], T], given: tuple[Any, ...]) -> T:
        """Return the object of the folded name, or build it. Another call with other values is an error."""
        kind, name = key
        with self._lock:
            known = self._built.get((kind, fold(name)))
            if known is None:
                known = self._built[kind, fold(name)] = (build(), given)
        thing, before = known
        if not _agree(given, before):
            reason = "already in use with other values; give them where it is first asked for"
            raise ConfigurationError(f"{kind} {name!r} is {reason}")
        return cast("T", thing)

    def _as_configured(self, name: str) -> RetryBudget:
        """Return the budget of this name, with its settings."""
        budget = self.budget(name)
        budget.configure(cast("BudgetOptions", self._config.budget(name)))
        return budget

    def _missing_pipeline(self, name: str) -> NoPipeline | None:
        """Return the problem with the name of a pipeline that is not configured, inherits nothing, and is empty."""
        configured = self._config.pipelines
        with self._lock:
            built = [thing for (kind, _), (thing, _) in self._built.items() if kind == "pipeline"]
        given = {fold(pipeline.name): pipeline.name for pipeline in built if pipeline.policies}
        if DEFAULT in configured or fold(name) in {*configured, *given}:
            return None
        return NoPipeline(name, given | {known: known for known in configured})

    def _configured(self, name: str, key: str = "") -> Iterator[Any]:
        for kind, options in self._config.pipeline(name).items():
            policy = section(f"pipeline.*.{kind}").constructor(**_values(options), **self._shared(kind, name, key))
            policy.sources = self._config.sources(name, kind)
            yield policy

    def _shared(self, kind: str, name: str, key: str) -> dict[str, Any]:
        """Return the arguments of a policy that are not options: the shared store and the key."""
        if kind != "rate_limit":
            return {}
        shared = {} if self._store is None else {"store": self._store}
        # A policy with a key may be in no pipeline, and a bucket takes its name from the pipeline.
        return shared | {"key": key, "name": f"{name}.ratelimit"} if key else shared

    def _bucket(self, name: str, rate: str | None, burst: int | None) -> TokenBucket:
        configured = self._config.limiter(name)
        if configured is not None:
            rate = configured.rate if rate is None else rate
            burst = configured.burst if burst is None else burst
        if rate is None:
            key = section("limiter.*").key("rate", fold(name))
            raise ConfigurationError([Missing(variable(key), "a rate such as 100/second, here or in code")])
        shadow = configured is not None and configured.shadow
        bucket = section("limiter.*").constructor(rate, burst, self._store, name=name, shadow=shadow)
        bucket.events.log_to(self.event_log)
        return cast("TokenBucket", bucket)

    def _new_redis(self) -> RedisConnection:
        from resilience.redis import RedisConnection  # noqa: PLC0415 - imported by services with a URL

        try:
            return RedisConnection(self._config.redis)
        except ConfigurationError as error:
            raise _under_variables("redis", error) from None

    def _new_health(self) -> Health:
        from resilience.health import Health, redis_check  # noqa: PLC0415 - imported by services that answer probes

        health = Health(self._config.health, lifecycle=self.lifecycle)
        if self.redis is not None:
            health.add("redis", redis_check(self.redis))
        return health

    @property
    def _store(self) -> Store | None:
        """The store of the limiters; None for the memory of this process."""
        connection = self.redis
        if connection is None:
            return None

        def build() -> Store:
            from resilience.ratelimit import RedisStore  # noqa: PLC0415 - imported by services with a URL

            store = RedisStore(connection)
            store.events.log_to(self.event_log)
            return store

        return self._once("store", build)

    def _open_parts(self) -> list[_OpenPart]:
        """Return the parts that hold connections or background work and that have been built."""
        with self._lock:
            return [thing for (kind, _), (thing, _) in self._built.items() if kind in _OPEN]


def _checked_config(config: Any) -> Config:
    if not isinstance(config, Config):  # told by its type alone: what was given may hold a password
        expected = "a Config, such as resilience.config.load() returns"
        raise ConfigurationError([Problem("config", type(config).__name__, expected)])
    return config


def _under_variables(pattern: str, error: ConfigurationError) -> ConfigurationError:
    """Return the same error with the names of variables in place of the names of options."""
    known = section(pattern)
    problems = [
        Problem(variable(known.key(problem.option)), problem.value, problem.expected, problem.hint)
        for problem in error.problems
    ]
    return ConfigurationError(problems) if problems else error


def _agree(given: tuple[Any, ...], before: tuple[Any, ...]) -> bool:
    """Whether a further call gives no values, or the values of the first call."""
    if not given:
        return True
    return len(given) == len(before) and all(
        now is None or now == then for now, then in zip(given, before, strict=True)
    )


def _values(options: Options) -> dict[str, Any]:
    """Return every option by the name of the constructor's argument."""
    return {field: getattr(options, field) for field in options.fields()}
