"""Make the policies and limiters that are configured, with the store that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from resilience.config._names import fold, variable
from resilience.config._problems import Missing
from resilience.config._schema import section
from resilience.errors import ConfigurationError

if TYPE_CHECKING:
    from resilience.config import Config
    from resilience.events import EventLog
    from resilience.options import Options
    from resilience.ratelimit import TokenBucket
    from resilience.redis import RedisConnection
    from resilience.toolkit._shared_parts import SharedParts

__all__ = ("ConfiguredPolicies",)


class ConfiguredPolicies:
    """Makes policies with the options and sources of a configuration.

    Args:
        config: The configuration.
        parts: Has the store of the rate limits, and the connection of shared breakers.
        log: Decides which events of the limiters are logged.
    """

    def __init__(self, config: Config, parts: SharedParts, log: EventLog) -> None:
        self._config, self._parts, self._log = config, parts, log

    def of_pipeline(self, name: str, key: str = "") -> Iterator[Any]:
        """Yield new policies of a pipeline, outermost first; rate limits spend from the bucket of `key`."""
        for kind in self._config.pipeline(name):
            yield self.of_function(name, kind, key)

    def of_function(self, name: str, kind: str, key: str = "") -> Any:
        """Return a new policy of a pipeline; `kind` is a key of `Config.pipeline(name)`."""
        options, sources = self._config.pipeline(name)[kind], self._config.sources(name, kind)
        return self._made(kind, name, options, sources, key)

    def of_client(self, name: str, kind: str, key: str = "") -> Any:
        """Return a new policy of the clients of a pipeline; `kind` is a key of `Config.client_pipeline(name)`."""
        options, sources = self._config.client_pipeline(name)[kind], self._config.client_sources(name, kind)
        return self._made(kind, name, options, sources, key)

    def of_limiter(self, name: str, rate: str | None, burst: int | None) -> TokenBucket:
        """Return a new bucket. The arguments come before the configured values.

        Raises:
            ConfigurationError: No rate is given or configured.
        """
        configured = self._config.limiter(name)
        if configured is not None:
            rate = configured.rate if rate is None else rate
            burst = configured.burst if burst is None else burst
        if rate is None:
            key = section("limiter.*").key("rate", fold(name))
            raise ConfigurationError([Missing(variable(key), "a rate such as 100/second, here or in code")])
        shadow = configured is not None and configured.shadow
        lease = None if configured is None else configured.lease
        bucket = section("limiter.*").constructor(
            rate, burst, self._parts.store(), name=name, shadow=shadow, lease=lease
        )
        bucket.events.log_to(self._log)
        return cast("TokenBucket", bucket)

    def _made(self, kind: str, name: str, options: Options, sources: Mapping[str, str], key: str) -> Any:
        values = _values(options)
        values |= {"shared": self._connection(options)} if kind == "breaker" else self._shared(kind, name, key)
        policy = section(f"pipeline.*.{kind}").constructor(**values)
        policy.sources = sources
        return policy

    def _connection(self, options: Options) -> RedisConnection | None:
        """Return the connection of a breaker; None unless it is shared. The loader has checked that a URL is set."""
        return self._parts.redis if getattr(options, "shared", False) else None

    def _shared(self, kind: str, name: str, key: str) -> dict[str, Any]:
        """Return the arguments of a policy that are not options: the shared store and the key."""
        if kind != "rate_limit":
            return {}
        store = self._parts.store()
        shared: dict[str, Any] = {} if store is None else {"store": store}
        # A policy with a key may be in no pipeline, and a bucket takes its name from the pipeline.
        return shared | {"key": key, "name": f"{name}.ratelimit"} if key else shared


def _values(options: Options) -> dict[str, Any]:
    """Return every option by the name of the constructor's argument."""
    return {field: getattr(options, field) for field in options.fields()}
