"""The settings with which redis-py makes a connection: those of the URL, then ours.

redis-py's defaults (ten retries, timeouts of 5 s) do not apply, nor do timeouts in the URL. redis-py has two classes of
each kind, in the modules `redis` and `redis.asyncio`; `module` names the one to use.
"""

from __future__ import annotations

import contextlib
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from resilience._support.redaction import HIDDEN, Secret
from resilience._support.tls import client_context
from resilience.errors import ConfigurationError, Problem
from resilience.redis._bounded import Generations, bounded, bounded_async
from resilience.redis._options import EXPECTED_URL, RedisOptions
from resilience.redis._sentinel import MasterSource, Sentinels, following, following_async
from resilience.redis._url import Endpoint, RedisPlace, Topology, place_of

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

__all__ = (
    "AWAITING",
    "BLOCKING",
    "Settings",
    "check_companions",
    "check_parameters",
    "connection_to",
    "for_own_pool",
    "require_redis",
    "settings_for",
    "settings_of_node",
)

BLOCKING = "redis"
AWAITING = "redis.asyncio"

Settings: TypeAlias = dict[str, Any]
"""Keyword arguments of a connection of redis-py, and its class as `connection_class`."""

_CREDENTIALS = frozenset({"username", "password", "ssl_password"})


def require_redis() -> None:
    """Raise `ConfigurationError` if the redis package is not installed."""
    try:
        import_module("redis")
    except ImportError:
        install = 'pip install "resilience-plugins[redis]"'
        raise ConfigurationError(f"shared state needs the redis package: {install}") from None


def settings_for(
    module: str, options: RedisOptions, generations: Generations, source: MasterSource | None = None
) -> Settings:
    """Return the settings of a connection.

    Args:
        module: `BLOCKING` or `AWAITING`.
        options: The URL and the timeout.
        generations: Decides when the connection is too old.
        source: Names the server of a cluster; None for any other URL.

    Raises:
        ConfigurationError: There is no URL, or redis-py cannot read it.
    """
    if options.url is None:
        raise ConfigurationError([Problem("url", None, EXPECTED_URL)])
    place = place_of(options.url)
    settings = _of_server(module, options, place, generations)
    if place.topology is not Topology.SINGLE:
        settings["source"] = source or _sentinels(module, options, place)
    return settings


def settings_of_node(options: RedisOptions) -> Settings:
    """Return the settings of a blocking connection to one node of a cluster, whichever role it has."""
    place = place_of(options.url or "")._replace(topology=Topology.SINGLE)
    return for_own_pool(BLOCKING, _of_server(BLOCKING, options, place, Generations(is_asked=True)), None)


def _of_server(module: str, options: RedisOptions, place: RedisPlace, generations: Generations) -> Settings:
    """Return the settings of a connection to a server that keeps data."""
    try:
        named: Settings = import_module(f"{module}.connection").parse_url(place.url)
    except ValueError:
        raise _unknown_parameter() from None
    for ours in ("max_connections", "timeout", "retry_on_timeout", "retry_on_error"):
        named.pop(ours, None)
    named["connection_class"] = _connection_class(module, named.get("connection_class"), place.topology)
    named["generations"] = generations
    found = {name: Secret(value) if name in _CREDENTIALS else value for name, value in named.items()}
    if place.has_tls:
        # Not the default of redis-py before 6, and refused by it where the URL wants no certificate.
        found = {"ssl_check_hostname": named.get("ssl_cert_reqs") != "none"} | found | _files(options)
    return found | _bounds(module, options.timeout, is_local="path" in named)


def _files(options: RedisOptions) -> dict[str, str]:
    """Return the certificate files that are set, under redis-py's names."""
    files = {"ssl_ca_certs": options.tls_ca, "ssl_certfile": options.tls_certificate, "ssl_keyfile": options.tls_key}
    return {name: path for name, path in files.items() if path is not None}


def check_companions(options: RedisOptions) -> None:
    """Check the options that belong to a kind of URL, and read the certificate files once.

    A wrong file would fail every connection, and would look like an outage. An option beside a URL of another kind
    would protect nothing.

    Raises:
        ConfigurationError: A file is missing or wrong, or an option does not belong to the URL.
    """
    if options.url is None:
        return
    place = place_of(options.url)
    kinds = (
        (place.has_tls, ("tls_ca", "tls_certificate", "tls_key"), "a URL without TLS, which would be rediss://"),
        (
            place.topology is Topology.SENTINEL,
            ("sentinel_username", "sentinel_password"),
            "a URL without Sentinels, which would be redis+sentinel://",
        ),
    )
    problems = [
        Problem(name, HIDDEN if name == "sentinel_password" else getattr(options, name), f"None beside {kind}")
        for belongs, names, kind in kinds
        for name in names
        if not belongs and getattr(options, name) is not None
    ]
    if problems:
        raise ConfigurationError(problems)
    if _files(options):
        client_context(None, options.tls_ca, options.tls_certificate, options.tls_key, prefix="tls_")


def _sentinels(module: str, options: RedisOptions, place: RedisPlace) -> Sentinels:
    """Return the Sentinels of `place`, with connections like those of the servers, but for database and credentials."""
    settings = _of_server(module, options, place._replace(topology=Topology.SINGLE), Generations(is_asked=True))
    for name in ("db", "username", "password"):
        settings.pop(name, None)
    credentials = {"username": options.sentinel_username, "password": options.sentinel_password}
    settings |= {name: Secret(value) for name, value in credentials.items() if value is not None}
    return Sentinels(place.endpoints, place.service, for_own_pool(module, settings, None), options.connect_timeout)


def for_own_pool(module: str, settings: Settings, timeout: float | None) -> Settings:
    """Return the settings of a connection of our own pools, which reconnect by themselves.

    Args:
        module: `BLOCKING` or `AWAITING`.
        settings: Those of `settings_for`.
        timeout: The bound on each step of connecting, in seconds; None if the pool bounds connecting as a whole.
    """
    from redis.backoff import NoBackoff  # noqa: PLC0415 - an extra

    never = import_module(f"{module}.retry").Retry(NoBackoff(), 0, supported_errors=())
    bounds = {name: timeout for name in ("socket_timeout", "socket_connect_timeout") if name in settings}
    return settings | bounds | {"retry": never, "retry_on_error": []}


def connection_to(settings: Settings, endpoint: Endpoint, seconds: float) -> AbstractConnection:
    """Return a connection to one node of a cluster, not connected yet."""
    bounds = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    arguments: Settings = settings | bounds | {"host": endpoint.host, "port": endpoint.port}
    connection: AbstractConnection = arguments.pop("connection_class")(**arguments)
    return connection


def check_parameters(settings: Settings) -> None:
    """Make a connection, which sends nothing: an error here would fail every call, and would look like an outage."""
    redis, named = import_module("redis"), dict(settings)
    kind = named.pop("connection_class", redis.Connection)
    try:
        kind(**named)
    except (TypeError, ValueError, redis.RedisError):
        raise _unknown_parameter() from None


def _unknown_parameter() -> ConfigurationError:
    hint = "a parameter after its ? is unknown to redis-py, or has a value that it cannot read"
    return ConfigurationError([Problem("url", "(hidden)", EXPECTED_URL, hint)])


def _connection_class(module: str, kind: object, topology: Topology) -> type[Any]:
    """Return the class of connection: of the kind that the URL asks for, TCP by default."""
    kind = kind or import_module(f"{module}.connection").Connection
    if not isinstance(kind, type):  # a parameter of the URL
        raise _unknown_parameter()
    found = bounded_async(kind) if module == AWAITING else bounded(kind)
    if topology is not Topology.SINGLE:
        return following_async(found) if module == AWAITING else following(found)
    return found


def _bounds(module: str, timeout: float, *, is_local: bool) -> Settings:
    from redis.backoff import NoBackoff  # noqa: PLC0415 - an extra
    from redis.exceptions import ConnectionError as NotConnected  # noqa: PLC0415 - an extra

    retry = import_module(f"{module}.retry").Retry
    return {
        "socket_timeout": timeout,
        **_bounded_connecting(module, timeout, is_local=is_local),
        # Once, and only for a connection that is gone: a server that is slow is not asked twice.
        "retry": retry(NoBackoff(), 1, supported_errors=(NotConnected,)),
        "retry_on_error": [NotConnected],  # redis-py before 6 looks here as well
        "health_check_interval": 0,
        "protocol": 2,
        **_no_client_name(),
    }


def _bounded_connecting(module: str, timeout: float, *, is_local: bool) -> dict[str, float]:
    """Return the bound on connecting. Connecting to a local socket never blocks, and older redis-py takes no bound."""
    import inspect  # noqa: PLC0415 - 10 ms that only a program that connects pays

    known = inspect.signature(import_module(f"{module}.connection").AbstractConnection.__init__).parameters
    return {"socket_connect_timeout": timeout} if not is_local or "socket_connect_timeout" in known else {}


def _no_client_name() -> dict[str, None]:
    """Return the settings with which a new connection spends no round trip on the name of the client library."""
    with contextlib.suppress(ImportError):
        import_module("redis.driver_info")
        return {"driver_info": None}
    return {"lib_name": None, "lib_version": None}
