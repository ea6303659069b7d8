"""Connectors of redis-py clients with one connection each."""

from __future__ import annotations

import functools
from importlib import import_module
from typing import TYPE_CHECKING, cast

from resilience._support.redaction import hidden
from resilience.connectors._address import Length
from resilience.options import seconds
from resilience.pool import Connector
from resilience.redis import RedisOptions
from resilience.redis._bounded import Generations
from resilience.redis._settings import (
    AWAITING,
    BLOCKING,
    Settings,
    check_parameters,
    for_own_pool,
    require_redis,
    settings_for,
)

if TYPE_CHECKING:
    import redis
    import redis.asyncio

__all__ = ("aio_redis_client", "redis_client")


def redis_client(url: str, *, timeout: Length = 1.0, connect_timeout: Length = 2.0) -> Connector[redis.Redis]:
    """Return the connector of `redis.Redis` clients, for a `Pool`. Each client has one connection.

    redis-py retries nothing here, and its default timeouts do not apply. Pipelines, transactions and `pubsub()` of the
    client use its one connection. When a client comes back, also after an error, redis-py looks for outstanding bytes
    and replaces the connection if there are some. A client whose connection is still held, such as by an open
    `pubsub()`, is closed. The check is a PING.

    Needs the extra `redis`.

    Args:
        url: Such as `redis://localhost:6379/0`; also `rediss://` (TLS) and `unix://`, and `redis+sentinel://` for the
            master that Sentinel knows, if the Sentinels need no password. Parameters such as `?decode_responses=true`
            are those of redis-py.
        timeout: The longest wait for one reply: seconds, a `timedelta` or text, at most 60 s. A blocking command such
            as BLPOP must wait for less.
        connect_timeout: The longest time of a step of connecting, at most 60 s.

    Raises:
        ConfigurationError: An argument has the wrong type or value, or redis is not installed.

    Example:
        >>> from resilience import Pool
        >>> pool = Pool(redis_client("redis://localhost:6379/0"), maximum_pool_size=5)
    """
    settings = _settings(BLOCKING, url, timeout, connect_timeout)
    check_parameters(settings)
    return Connector(connect=functools.partial(_connect, settings), check=_ping, reset=_reset, abort=_abort)


def aio_redis_client(
    url: str, *, timeout: Length = 1.0, connect_timeout: Length = 2.0
) -> Connector[redis.asyncio.Redis]:
    """Return the connector of `redis.asyncio.Redis` clients, for an `AsyncPool`. Each client has one connection.

    For the arguments see `redis_client`.

    Example:
        >>> from resilience import AsyncPool
        >>> pool = AsyncPool(aio_redis_client("redis://localhost:6379/0"), maximum_pool_size=5)
    """
    settings = _settings(AWAITING, url, timeout, connect_timeout)
    check_parameters(settings)
    return Connector(connect=functools.partial(_aconnect, settings), check=_aping, reset=_areset)


def _settings(module: str, url: str, timeout: Length, connect_timeout: Length) -> Settings:
    require_redis()
    options = RedisOptions(
        url=hidden(url),
        timeout=cast("float", timeout),
        connect_timeout=seconds(connect_timeout, "connect_timeout", above=True),
    )
    settings = for_own_pool(module, settings_for(module, options, Generations()), options.timeout)
    if "socket_connect_timeout" in settings:
        settings["socket_connect_timeout"] = options.connect_timeout
    return settings


def _connect(settings: Settings) -> redis.Redis:
    package = import_module(BLOCKING)
    client: redis.Redis = package.Redis.from_pool(package.ConnectionPool(max_connections=1, **settings))
    try:
        client.ping()
    except BaseException:
        client.close()
        raise
    return client


def _ping(client: redis.Redis) -> bool:
    return bool(client.ping())


def _reset(client: redis.Redis) -> None:
    # It takes the connection, which redis-py makes ready, and gives it back.
    with client.client():  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        pass


def _abort(client: redis.Redis) -> None:
    client.connection_pool.disconnect()


async def _aconnect(settings: Settings) -> redis.asyncio.Redis:
    package = import_module(AWAITING)
    client: redis.asyncio.Redis = package.Redis.from_pool(package.ConnectionPool(max_connections=1, **settings))
    try:
        await client.ping()
    except BaseException:
        await client.aclose()
        raise
    return client


async def _aping(client: redis.asyncio.Redis) -> bool:
    return bool(await client.ping())


async def _areset(client: redis.asyncio.Redis) -> None:
    async with client.client():  # as in `_reset`
        pass
