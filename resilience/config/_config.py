"""The settings in force, typed, with the source of every value."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

from resilience._support.redaction import redacted
from resilience.config import _schema
from resilience.config._client_layer import CLIENT_LAYER
from resilience.config._machine import LayerValue, Settled, Value, build, effective, instances
from resilience.config._names import fold, variable
from resilience.config._render import written
from resilience.config._schema import DEFAULT, POLICIES, Section
from resilience.options import rule_of

if TYPE_CHECKING:
    from resilience.breaker._options import BreakerOptions
    from resilience.budget import BudgetOptions
    from resilience.client._options import ClientOptions
    from resilience.config._names import Key
    from resilience.config._options import EventsOptions, MetricsOptions, PipelineOptions, ServiceOptions
    from resilience.errors import Problem
    from resilience.event_log import LogOptions
    from resilience.health._options import HealthOptions
    from resilience.lifecycle._options import LifecycleOptions
    from resilience.options import Options
    from resilience.ratelimit._options import RateLimitOptions
    from resilience.redis._options import RedisOptions
    from resilience.server._options import ServerOptions
    from resilience.status._options import StatusOptions
    from resilience.telemetry._options import TelemetryOptions

__all__ = ("Config", "Setting")

_STRICT: Key = ("strict",)
_HTTP = "http"
"""The pipeline of HTTP clients that name none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting in force. Secrets are hidden.

    `text` and `default_text` are the values as a variable would have them. `source` is `argument`, the name of a
    variable, `file: <path>:<key>`, `default`, or `client default` for a value that only HTTP and gRPC clients have.
    """

    section: str
    variable: str
    value: object
    text: str
    source: str
    default: object
    default_text: str
    doc: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Config:
    """All settings, frozen. `Config()` has all defaults; `load()` reads the environment.

    `unknown` lists the unknown names for which `load()` warned, and `unlikely` the durations.
    """

    _settled: Settled = dataclasses.field(default_factory=dict)
    unknown: tuple[Problem, ...] = ()
    unlikely: tuple[Problem, ...] = ()

    @functools.cached_property
    def service(self) -> ServiceOptions:
        """The settings of the service itself."""
        return cast("ServiceOptions", self._options("service"))

    @functools.cached_property
    def metrics(self) -> MetricsOptions:
        """The settings of the metrics page."""
        return cast("MetricsOptions", self._options("metrics"))

    @functools.cached_property
    def status(self) -> StatusOptions:
        """The settings of the status socket."""
        return cast("StatusOptions", self._options("status"))

    @property
    def telemetry(self) -> TelemetryOptions:
        """The settings of the OpenTelemetry instrumentation."""
        return cast("TelemetryOptions", self._options("telemetry"))

    @functools.cached_property
    def events(self) -> EventsOptions:
        """The settings of the events."""
        return cast("EventsOptions", self._options("events"))

    @functools.cached_property
    def log(self) -> LogOptions:
        """The settings of the log of events."""
        return cast("LogOptions", self._options("log"))

    @functools.cached_property
    def redis(self) -> RedisOptions:
        """The settings of Redis."""
        return cast("RedisOptions", self._options("redis"))

    @functools.cached_property
    def server(self) -> ServerOptions:
        """The settings for requests that this service answers."""
        return cast("ServerOptions", self._options("server"))

    @functools.cached_property
    def client(self) -> ClientOptions:
        """The settings for calls that this service makes."""
        return cast("ClientOptions", self._options("client"))

    @functools.cached_property
    def health(self) -> HealthOptions:
        """Defaults of every health check."""
        return cast("HealthOptions", self._options("health"))

    @functools.cached_property
    def lifecycle(self) -> LifecycleOptions:
        """The settings for start, drain and stop."""
        return cast("LifecycleOptions", self._options("lifecycle"))

    def pipeline(self, name: str) -> Mapping[str, Options]:
        """Return the options of every policy that is on for the pipeline, outermost first, inherited ones included.

        The keys are the names of the policies: `retry`, `breaker`, `rate_limit`. In `name` the characters `-`, `.`, `/`
        and `_` are equal, and case does not matter.
        """
        return self._policies(name, ())

    def client_pipeline(self, name: str) -> Mapping[str, Options]:
        """Return the options of every policy that HTTP and gRPC clients of this pipeline have, outermost first.

        They are those of `pipeline(name)`, and below them the defaults of clients: a retry and a breaker, unless
        `enabled` is false.
        """
        return self._policies(name, CLIENT_LAYER)

    def _policies(self, name: str, below: tuple[LayerValue, ...]) -> Mapping[str, Options]:
        if not self.is_enabled(name):
            return {}
        instance = fold(name)
        found = ((policy.name, build(self._settled, policy, instance, below)) for policy in POLICIES)
        return {kind: options for kind, options in found if options is not None}

    def is_enabled(self, name: str) -> bool:
        """Whether the pipeline, or `default`, is not switched off as a whole."""
        return cast("PipelineOptions", self._options("pipeline.*", name)).enabled

    @property
    def is_strict(self) -> bool:
        """Whether an unknown name is an error and not a warning."""
        return _STRICT in self._settled and bool(self._settled[_STRICT].value)

    @property
    def pipelines(self) -> tuple[str, ...]:
        """The names of the pipelines that are configured, folded; `default` first."""
        return instances(self._settled, "pipeline")

    def has_pipeline(self, name: str) -> bool:
        """Whether the pipeline has settings of its own, not only inherited ones."""
        return fold(name) in self.pipelines

    def sources(self, name: str, kind: str) -> Mapping[str, str]:
        """Return where each option of one policy of the pipeline comes from; `kind` is a key of `pipeline(name)`."""
        return self._sources(name, kind, ())

    def client_sources(self, name: str, kind: str) -> Mapping[str, str]:
        """Return where each option of one policy of a client comes from; `kind` is a key of `client_pipeline(name)`."""
        return self._sources(name, kind, CLIENT_LAYER)

    def _sources(self, name: str, kind: str, below: tuple[LayerValue, ...]) -> Mapping[str, str]:
        known = _schema.section(f"pipeline.*.{kind}")
        found = effective(self._settled, known, fold(name), below)
        return {
            field: found[field].entry.source if field in found else "default"
            for field in known.fields
            if field != "enabled"
        }

    def limiter(self, name: str) -> RateLimitOptions | None:
        """Return rate and burst of a limiter, or None if it is not configured."""
        known = _schema.section("limiter.*")
        if not effective(self._settled, known, fold(name)):
            return None
        return cast("RateLimitOptions", self._options(known.pattern, name))

    @property
    def budgets(self) -> tuple[str, ...]:
        """The names of the retry budgets that are configured."""
        return instances(self._settled, "budget")

    def budget(self, name: str) -> BudgetOptions | None:
        """Return the options of a retry budget, or None if it is not configured."""
        return cast("BudgetOptions", self._options("budget.*", name)) if fold(name) in self.budgets else None

    @property
    def pools(self) -> tuple[str, ...]:
        """The names of the connection pools that are configured."""
        return instances(self._settled, "pool")

    def pool(self, name: str) -> Mapping[str, object]:
        """Return the options of a connection pool that are set, by the name of the constructor's argument."""
        return self._set("pool.*", name)

    def pool_breaker(self, name: str) -> BreakerOptions | None:
        """Return the options of the circuit breaker around connecting, or None if a pool has none."""
        return cast("BreakerOptions | None", self._options("pool.*.breaker", name))

    def pool_health(self, name: str) -> Mapping[str, object]:
        """Return the options of the health check of a pool that are set, by the name of the argument."""
        return self._set("pool.*.health", name)

    def pool_sources(self, name: str) -> Mapping[str, str]:
        """Return the variable or the key of the file that sets each option of a pool. The others have defaults."""
        return {
            field: value.entry.spelled
            for field, value in effective(self._settled, _schema.section("pool.*"), fold(name)).items()
        }

    def _set(self, pattern: str, name: str) -> Mapping[str, object]:
        found = effective(self._settled, _schema.section(pattern), fold(name))
        return {field: value.value for field, value in found.items()}

    def values(self, *, pipeline: str | None = None) -> tuple[Setting, ...]:
        """Return every setting in force and its source; with `pipeline`, the settings of that pipeline alone."""
        if pipeline is not None:
            return tuple(self._of_pipeline(fold(pipeline)))
        return tuple(self._all())

    def _all(self) -> Iterator[Setting]:
        for known in _schema.SECTIONS:
            if not known.has_instances:
                yield from self._of(known, "")
        for name in instances(self._settled, "limiter"):
            yield from self._of(_schema.section("limiter.*"), name)
        for name in self.budgets:
            yield from self._of(_schema.section("budget.*"), name)
        for name in dict.fromkeys((DEFAULT, *self.pipelines)):
            yield from self._of_pipeline(name)
        for name in self.pools:
            yield from self._of_pool(name)

    def _of_pool(self, name: str) -> Iterator[Setting]:
        yield from self._of(_schema.section("pool.*"), name)
        breaker = _schema.section("pool.*.breaker")
        if found := effective(self._settled, breaker, name):
            is_off = self.pool_breaker(name) is None
            yield from self._of(breaker, name, only="enabled" if is_off else "", found=found)
        yield from self._of(_schema.section("pool.*.health"), name)

    def _of_pipeline(self, name: str) -> Iterator[Setting]:
        whole = _schema.section("pipeline.*")
        if found := effective(self._settled, whole, name):
            yield from self._of(whole, name, found=found)
        is_known = name in self.pipelines or DEFAULT in self.pipelines or name in (_HTTP, DEFAULT)
        for policy in POLICIES:
            if found := effective(self._settled, policy, name):
                is_off = build(self._settled, policy, name) is None
                yield from self._of(policy, name, only="enabled" if is_off else "", found=found)
            if is_known:
                yield from self._of_clients(policy, name, found)

    def _of_clients(self, policy: Section, name: str, found: Mapping[str, Value]) -> Iterator[Setting]:
        """Yield the values that only clients of the pipeline have."""
        if self.is_enabled(name) and build(self._settled, policy, name, CLIENT_LAYER) is not None:
            for field, value in effective(self._settled, policy, name, CLIENT_LAYER).items():
                if field not in found:
                    yield _setting(policy, name, field, value)

    def _of(
        self, known: Section, instance: str, *, only: str = "", found: Mapping[str, Value] | None = None
    ) -> Iterator[Setting]:
        values = effective(self._settled, known, instance) if found is None else found
        for name in (only,) if only else known.fields:
            yield _setting(known, instance, name, values.get(name))

    def _options(self, pattern: str, instance: str = "") -> Options | None:
        return build(self._settled, _schema.section(pattern), fold(instance))

    def __repr__(self) -> str:
        shown = (f"{variable(key)}={self._text(key)}" for key in sorted(self._settled))
        return f"Config({', '.join(shown)})"

    def _text(self, key: Key) -> str:
        known = _schema.find(key)
        assert known is not None  # noqa: S101 - all keys in `_settled` exist
        return _setting(known, known.instance_in(key), key[-1], self._settled[key]).text


def _setting(known: Section, instance: str, name: str, value: Value | None) -> Setting:
    field = known.fields[name]
    is_secret = field.metadata["secret"]
    actual = redacted(field.default if value is None else value.value, secret=is_secret)
    rule, key = rule_of(field), known.key(name, instance)
    return Setting(
        section=" ".join(key[:-1]),
        variable=variable(key),
        value=actual,
        text=written(actual, rule),
        source="default" if value is None else value.entry.source,
        default=field.default,
        default_text=written(field.default, rule),
        doc=field.metadata["doc"],
    )
