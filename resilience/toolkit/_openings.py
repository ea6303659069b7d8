"""The parts of a toolkit that connect to the world, with the names of their variables in errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience.errors import ConfigurationError, PluginError
from resilience.toolkit._names import under_variables

if TYPE_CHECKING:
    from resilience.config._options import MetricsOptions
    from resilience.prometheus import MetricsPage
    from resilience.redis import RedisConnection
    from resilience.redis._options import RedisOptions

__all__ = ("open_page", "open_redis")


def open_page(options: MetricsOptions) -> MetricsPage:
    """Return the page of this process, with its port open if the options name one.

    Raises:
        ConfigurationError: The address cannot be used.
        PluginError: prometheus-client is not installed.
    """
    try:
        from resilience.prometheus._opening import OPEN_PAGE  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "prometheus_client":
            raise
        reason = 'RESILIENCE_METRICS needs prometheus-client: pip install "resilience-plugins[prometheus]"'
        raise PluginError(reason) from error
    try:
        return OPEN_PAGE.get(options)
    except ConfigurationError as error:
        raise under_variables("metrics", error) from None


def open_redis(options: RedisOptions) -> RedisConnection:
    """Return the connection to Redis, which connects when it is first used.

    Raises:
        ConfigurationError: The URL is wrong, or redis-py is not installed.
    """
    from resilience.redis import RedisConnection as Connection  # noqa: PLC0415 - imported by services with a URL

    try:
        return Connection(options)
    except ConfigurationError as error:
        raise under_variables("redis", error) from None
