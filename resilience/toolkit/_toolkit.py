"""The toolkit: each part built, and imported, the first time it is asked for."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from resilience._support.fork import renew_after_fork
from resilience._support.redaction import hidden
from resilience.config import Config, load
from resilience.config._names import fold, variable
from resilience.config._problems import Missing, NoPipeline
from resilience.config._schema import DEFAULT, section
from resilience.config._warning import warn
from resilience.errors import ConfigurationError, Problem
from resilience.options import Refused
from resilience.pipeline import NAME, Pipeline
from resilience.toolkit._machine import compose

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from types import TracebackType

    from resilience.budget import BudgetOptions, RetryBudget
    from resilience.envelope import ErrorCatalog
    from resilience.health import Health
    from resilience.lifecycle import Lifecycle
    from resilience.options import Options
    from resilience.policy import AroundPolicy, Policy
    from resilience.ratelimit import Store, TokenBucket
    from resilience.redis import RedisConnection
    from resilience.toolkit._aio import Closable

__all__ = ("Resilience",)

T = TypeVar("T")

_OPEN = frozenset({"redis", "health"})
"""What holds something open: connections, background checks."""


class Resilience:
    """Everything one service needs, each part built (and imported) the first time it is asked for.

    `Resilience.from_env()` reads variables and file; `Resilience()` is all defaults. Safe to share between threads and
    tasks: the same name always gives the same object. Close it when the service ends, or use it in a `with` block.
    """

    def __init__(self, config: Config | None = None) -> None:
        self._config = Config() if config is None else _checked_config(config)
        self._built: dict[tuple[str, str], tuple[Any, tuple[Any, ...]]] = {}
        self.after_fork()
        renew_after_fork(self)
        # Held here, or what is configured would be forgotten before anybody uses it.
        self._budgets = [self._as_configured(name) for name in self._config.budgets]

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, *, strict: bool | None = None, **arguments: Any
    ) -> Resilience:
        """Build from `environ`, by default the environment of the process as it is now.

        `arguments` beat it, section by section: `from_env(service={"name": "orders"})`.
        Raises one `ConfigurationError` that lists every problem.
        """
        environ, arguments = hidden(environ), hidden(arguments)  # error trackers show the local variables
        toolkit = cls(load(environ, strict=strict, arguments=arguments))
        _ = toolkit.redis  # a URL nobody can read, or an extra that is missing, should stop the start and not a call
        return toolkit

    @classmethod
    def of(cls, given: Resilience | None) -> Resilience:
        """Return the toolkit given, `from_env()` where none is: what an adapter makes of its argument.

        Raises `ConfigurationError` for anything else.
        """
        wanted: Any = given
        if not (wanted is None or isinstance(wanted, Resilience)):  # told by its type alone: it may hold a password
            raise ConfigurationError([Problem("resilience", type(wanted).__name__, "a Resilience, or None")])
        return cls.from_env() if wanted is None else wanted

    def after_fork(self) -> None:
        """Replace the lock, which another thread may have held at the moment of the fork."""
        self._lock = threading.RLock()  # guards what is built; only our own constructors run under it

    @property
    def config(self) -> Config:
        """What is configured, with the source of every value."""
        return self._config

    @property
    def health(self) -> Health:
        """The health checks of this process."""
        return self._once("health", self._new_health)

    @property
    def lifecycle(self) -> Lifecycle:
        """Where this process is between start and end."""
        return self._once("lifecycle", self._new_lifecycle)

    def _new_lifecycle(self) -> Lifecycle:
        lifecycle = cast("Lifecycle", section("lifecycle").constructor(self._config.lifecycle))
        lifecycle.close_on_stop(self, name="toolkit")  # the first to be added is the last to run
        return lifecycle

    @property
    def redis(self) -> RedisConnection | None:
        """The connection that state is shared through; None when no URL is set. Nothing is sent before it is used."""
        if self._config.redis.url is None:
            return None
        return self._once("redis", self._new_redis)

    @property
    def catalog(self) -> ErrorCatalog:
        """The errors this service may send to its clients."""

        def build() -> ErrorCatalog:
            from resilience.envelope import ErrorCatalog as Catalog  # noqa: PLC0415 - only services that name errors pay

            return Catalog(domain=self._config.service.name)

        return self._once("catalog", build)

    def pipeline(self, name: str, *policies: Policy | AroundPolicy) -> Pipeline:
        """Return the pipeline of this name; use it as a decorator, or in any other way a `Pipeline` is used.

        It holds what is configured for it, in the recommended order. A policy given here replaces the configured one
        of its kind. With nothing configured and nothing given, calls pass through unchanged: where other pipelines are
        configured that is a `ConfigurationWarning`, as the name may be misspelt.
        Raises `ConfigurationError` when the name is already in use with other policies, and in place of the warning
        when `strict`.
        """
        _check_name("pipeline", name)
        if not policies and self._config.pipelines and (problem := self._lacking(name)) is not None:
            if self._config.is_strict:
                raise ConfigurationError([problem])
            warn(f"{problem}, so its calls pass through unchanged. RESILIENCE_STRICT=true refuses it")
        build = lambda: Pipeline(name, *compose(policies, self._configured(name)))  # noqa: E731 - two uses of one line
        return self._named(("pipeline", name), build, policies)

    def existing_pipeline(self, name: str) -> Pipeline:
        """Return the pipeline of this name that is configured, or inherits something, or has its policies from code.

        For who is told a name and nothing else: a misspelt one would guard nothing.
        Raises `ConfigurationError` where there is none, with those that there are.
        """
        _check_name("pipeline", name)
        if (problem := self._lacking(name)) is not None:
            raise ConfigurationError([problem])
        return self.pipeline(name)

    def policies(self, name: str, *, key: str = "") -> tuple[Any, ...]:
        """Return new policies, as configured for the pipeline of this name: for who needs one set per host or method.

        `key` is whose tokens their rate limits spend. They share nothing with `pipeline(name)`, nor with one another.
        """
        return tuple(self._configured(name, key))

    def limiter(self, name: str, rate: str | None = None, burst: int | None = None) -> TokenBucket:
        """Return the limiter of this name: on Redis when `REDIS__URL` is set, else in this process.

        `rate` (such as `"100/minute"`) and `burst` may be left out where they are configured, and win where both exist.
        Raises `ConfigurationError` when neither says a rate, or the name is already in use with another one.
        """
        _check_name("limiter", name)
        return self._named(("limiter", name), lambda: self._bucket(name, rate, burst), (rate, burst))

    def budget(self, name: str) -> RetryBudget:
        """Return the retry budget of this name: the one every retry and hedge of this process means by it."""
        from resilience.budget import RetryBudget  # noqa: PLC0415 - only services that share one pay

        return RetryBudget(name)

    def close(self) -> None:
        """Close what was opened: connections and background work. May be called twice."""
        with contextlib.ExitStack() as stack:
            for part in self._closable():
                stack.callback(part.close)

    def aclose(self) -> Coroutine[Any, Any, None]:
        """Do the same without blocking the event loop."""
        from resilience.toolkit._aio import close_all  # noqa: PLC0415 - blocking programs never need it

        return close_all(self._closable())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __aenter__(self) -> Coroutine[Any, Any, Self]:
        from resilience.toolkit._aio import entered  # noqa: PLC0415 - see aclose

        return entered(self)

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        return self.aclose()

    def __repr__(self) -> str:
        return f"Resilience({self._config!r})"

    def _once(self, what: str, build: Callable[[], T]) -> T:
        return self._named((what, what), build, ())

    def _named(self, key: tuple[str, str], build: Callable[[], T], given: tuple[Any, ...]) -> T:
        """Return what is known under the folded name, or build it. Naming it again with other values is a mistake."""
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
        """Return the budget of this name, which everybody in this process shares, told what is configured for it."""
        budget = self.budget(name)
        budget.configure(cast("BudgetOptions", self._config.budget(name)))
        return budget

    def _lacking(self, name: str) -> NoPipeline | None:
        """Return what is wrong with the name of a pipeline that is not configured, inherits nothing, and is empty."""
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
        """Return what a policy needs besides its own options."""
        if kind != "rate_limit":
            return {}
        shared = {} if self._store is None else {"store": self._store}
        # One that has a key may never join a pipeline, which is where buckets take their name from.
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
        return cast("TokenBucket", bucket)

    def _new_redis(self) -> RedisConnection:
        from resilience.redis import RedisConnection  # noqa: PLC0415 - only services with a URL pay

        try:
            return RedisConnection(self._config.redis)
        except ConfigurationError as error:
            raise _under_variables("redis", error) from None

    def _new_health(self) -> Health:
        from resilience.health import Health, redis_check  # noqa: PLC0415 - only services that answer probes pay

        health = Health(self._config.health, lifecycle=self.lifecycle)
        if self.redis is not None:
            health.add("redis", redis_check(self.redis))
        return health

    @property
    def _store(self) -> Store | None:
        """Where limiters keep their tokens; None is this process."""
        connection = self.redis
        if connection is None:
            return None

        def build() -> Store:
            from resilience.ratelimit import RedisStore  # noqa: PLC0415 - only services with a URL pay

            return RedisStore(connection)

        return self._once("store", build)

    def _closable(self) -> list[Closable]:
        """Return what holds something open, if it was ever built."""
        with self._lock:
            return [thing for (kind, _), (thing, _) in self._built.items() if kind in _OPEN]


def _checked_config(config: Any) -> Config:
    if not isinstance(config, Config):  # told by its type alone: what was given may hold a password
        expected = "a Config, such as resilience.config.load() returns"
        raise ConfigurationError([Problem("config", type(config).__name__, expected)])
    return config


def _check_name(kind: str, name: str) -> None:
    try:
        NAME.check(name)
    except Refused:
        raise ConfigurationError([Problem(f"{kind} name", name, NAME.expected)]) from None


def _under_variables(pattern: str, error: ConfigurationError) -> ConfigurationError:
    """Return the same error with variables in the place of option names."""
    known = section(pattern)
    problems = [
        Problem(variable(known.key(problem.option)), problem.value, problem.expected, problem.hint)
        for problem in error.problems
    ]
    return ConfigurationError(problems) if problems else error


def _agree(given: tuple[Any, ...], before: tuple[Any, ...]) -> bool:
    """Tell whether asking again says nothing new: nothing at all, or the same as the first time."""
    if not given:
        return True
    return len(given) == len(before) and all(
        now is None or now == then for now, then in zip(given, before, strict=True)
    )


def _values(options: Options) -> dict[str, Any]:
    """Return every option by the name its constructor knows it under."""
    return {field: getattr(options, field) for field in options.fields()}
