"""The table of all sections. A new section is one entry here.

A section names its classes by dotted path and imports them when it first uses them. The options of the breaker are in a
package that imports pybreaker, and a service without a breaker does not need it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, cast

from resilience.config._options import SwitchOptions
from resilience.options import Instance, Opaque, rule_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilience.config._names import Key
    from resilience.options import Options

    Fields = Mapping[str, dataclasses.Field[Any]]

__all__ = ("ANY", "DEFAULT", "POLICIES", "SECTIONS", "Section", "find", "section")

ANY = "*"
"""Stands for the name of an instance."""
DEFAULT = "default"
"""The pipeline from which all others inherit."""


@dataclasses.dataclass(frozen=True)
class Section:
    """The settings of one options class.

    `pattern` is the path in front of the field, in which `*` stands for the name of an instance. `builds` is the class
    that takes the options in code. `without` names fields of the options that are no settings. `needs` names the field
    that must be set if any other field is. A section of pipelines inherits from the instance `default`; a switched
    section, that of a policy or of the breaker of a pool, has the extra field `enabled`.
    """

    pattern: str
    options_path: str
    builds: str = ""
    needs: str = ""
    without: frozenset[str] = frozenset()

    @functools.cached_property
    def words(self) -> Key:
        """The pattern, word by word."""
        return tuple(filter(None, self.pattern.split(".")))

    @functools.cached_property
    def name(self) -> str:
        """The last word of the pattern, such as `retry`."""
        return next((word for word in reversed(self.words) if word != ANY), "")

    @functools.cached_property
    def inherits(self) -> bool:
        """Whether the section inherits from `default`."""
        return self.words[:1] == ("pipeline",)

    @functools.cached_property
    def is_switched(self) -> bool:
        """Whether the section is that of a policy, which can be switched off."""
        return self.pattern.startswith("pipeline.*.") or self.pattern == "pool.*.breaker"

    @functools.cached_property
    def has_instances(self) -> bool:
        """Whether each name has its own settings."""
        return ANY in self.words

    @functools.cached_property
    def options(self) -> type[Options]:
        """The options class, imported on first use."""
        return cast("type[Options]", _resolve(self.options_path))

    @functools.cached_property
    def constructor(self) -> Any:
        """The class that takes the options, imported on first use."""
        return _resolve(self.builds)

    @functools.cached_property
    def fields(self) -> Fields:
        """Every field that a variable can set, by name."""
        own = {
            name: field
            for name, field in self.options.fields().items()
            if name not in self.without and not isinstance(rule_of(field), Instance | Opaque)
        }
        return {**SwitchOptions.fields(), **own} if self.is_switched else own

    def path(self, instance: str = "") -> Key:
        """Return the words in front of a field, for one instance if the section has instances."""
        if not self.has_instances:
            return self.words
        first, _, *rest = self.words
        return (first, instance, *rest)

    def paths(self, instance: str = "") -> tuple[Key, ...]:
        """Return the paths whose fields count for one instance; those of a later path come first."""
        return (self.path(DEFAULT), self.path(instance)) if self.inherits else (self.path(instance),)

    def key(self, field: str, instance: str = "") -> Key:
        """Return the key of `field`, for one instance if the section has instances."""
        return (*self.path(instance), field)

    def instance_in(self, key: Key) -> str:
        """Return the instance that `key`, one of this section, belongs to."""
        return key[1] if self.has_instances else ""

    def begins_with(self, start: Key) -> bool:
        """Whether the path to a field of this section can begin with these words."""
        words = self.words
        return len(start) <= len(words) and all(
            word == actual or (word == ANY and actual) for word, actual in zip(words, start, strict=False)
        )


def _resolve(path: str) -> Any:
    module, _, name = path.partition(":")
    import importlib  # noqa: PLC0415 - only needed with the first setting that is looked up

    return getattr(importlib.import_module(module), name)


SECTIONS = (
    Section("", "resilience.config._options:LoaderOptions"),
    Section("service", "resilience.config._options:ServiceOptions"),
    Section("redis", "resilience.redis._options:RedisOptions"),
    Section("server", "resilience.server._options:ServerOptions"),
    Section("client", "resilience.client._options:ClientOptions"),
    Section("health", "resilience.health._options:HealthOptions", "resilience.health:Health"),
    Section("lifecycle", "resilience.lifecycle._options:LifecycleOptions", "resilience.lifecycle:Lifecycle"),
    Section("events", "resilience.config._options:EventsOptions"),
    Section("log", "resilience.event_log._options:LogOptions"),
    Section("metrics", "resilience.config._options:MetricsOptions"),
    Section("status", "resilience.status._options:StatusOptions"),
    Section("telemetry", "resilience.telemetry._options:TelemetryOptions"),
    Section(
        "limiter.*",
        "resilience.ratelimit._options:RateLimitOptions",
        "resilience.ratelimit:TokenBucket",
        needs="rate",
        without=frozenset({"max_wait", "retry_after_max", "strategy"}),
    ),
    Section("budget.*", "resilience.budget._options:BudgetOptions", "resilience.budget:RetryBudget"),
    Section("pipeline.*", "resilience.config._options:PipelineOptions", "resilience.pipeline:Pipeline"),
    # In the recommended order, outermost first.
    Section("pipeline.*.cache", "resilience.cache._options:CacheOptions", "resilience.cache:Cache"),
    Section(
        "pipeline.*.single_flight",
        "resilience.singleflight._options:SingleFlightOptions",
        "resilience.singleflight:SingleFlight",
    ),
    Section("pipeline.*.retry", "resilience.retry._options:RetryOptions", "resilience.retry:Retry"),
    Section("pipeline.*.hedge", "resilience.hedge._options:HedgeOptions", "resilience.hedge:Hedge"),
    Section("pipeline.*.breaker", "resilience.breaker._options:BreakerOptions", "resilience.breaker:CircuitBreaker"),
    Section(
        "pipeline.*.rate_limit",
        "resilience.ratelimit._options:RateLimitOptions",
        "resilience.ratelimit:RateLimit",
        needs="rate",
    ),
    Section("pipeline.*.bulkhead", "resilience.bulkhead._options:BulkheadOptions", "resilience.bulkhead:Bulkhead"),
    Section(
        "pipeline.*.thread_pool",
        "resilience.bulkhead._options:ThreadPoolOptions",
        "resilience.bulkhead:ThreadPoolBulkhead",
    ),
    Section("pipeline.*.timeout", "resilience.timeout._options:TimeoutOptions", "resilience.timeout:Timeout"),
    Section("pool.*", "resilience.pool._options:PoolOptions", "resilience.pool:Pool"),
    Section(
        "pool.*.breaker",
        "resilience.breaker._options:BreakerOptions",
        "resilience.breaker:CircuitBreaker",
        without=frozenset({"shared", "quorum"}),  # an instance that cannot connect says nothing about the others
    ),
    Section("pool.*.health", "resilience.health._options:PoolCheckOptions", "resilience.health:pool_check"),
)

POLICIES = tuple(known for known in SECTIONS if known.inherits and known.is_switched)
_BY_PATTERN = {known.pattern: known for known in SECTIONS}
_BY_WORDS = {known.words: known for known in SECTIONS}


def section(pattern: str) -> Section:
    """Return the section of exactly this pattern."""
    return _BY_PATTERN[pattern]


def find(key: Key) -> Section | None:
    """Return the section in which `key` names a field, or None if there is no such setting."""
    *path, field = key
    if len(path) > 1 and path[1]:
        path[1] = ANY  # the second word of a path is the name of an instance
    known = _BY_WORDS.get(tuple(path))
    return known if known is not None and field in known.fields else None
