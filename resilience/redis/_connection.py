"""The one place that builds Redis clients: bounded in time and number, with no hidden retries."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Coroutine
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from resilience._support.fork import renew_after_fork
from resilience._support.redaction import Secret, hidden
from resilience.errors import ConfigurationError, Problem
from resilience.redis._exchange import limit
from resilience.redis._generation import Generation
from resilience.redis._options import EXPECTED_URL, RedisOptions
from resilience.redis._pool import ConnectionPool
from resilience.redis._probe import diagnose

if TYPE_CHECKING:
    import redis
    import redis.asyncio
    from redis.connection import AbstractConnection

    from resilience.redis._pool_aio import AsyncConnectionPool

__all__ = ("RedisConnection",)

_CREDENTIALS = frozenset({"username", "password", "ssl_password"})
_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}


class RedisConnection:
    """Clients of one Redis, made when first used: one for blocking code, one for each event loop.

    Every wait of a client is bounded by `options.timeout`: for a connection, for connecting, for a reply, however many
    pieces it comes in. redis-py's own defaults (ten retries, timeouts of 5 s) do not apply, nor do timeouts in the URL.
    A connection that went stale in the pool is replaced once per command. A forked child makes its own clients.

    Limiters have connections of their own, `pool` and `aio_pool`, where connecting goes on in the background.

    Raises `ConfigurationError` when there is no URL, it cannot be read, or redis is not installed.
    """

    def __init__(self, options: RedisOptions) -> None:
        self.options = options
        _require_redis()
        self._generation = Generation()
        self._sync_settings = self._settings("redis.connection")
        _check_parameters(self._sync_settings)
        self._inherited: list[Any] = []
        self._sync: redis.Redis | None = None
        self._loops: dict[Any, Any] = {}
        self._pool: ConnectionPool | None = None
        self._pools: dict[Any, Any] = {}
        # Guards the four above; held while a client is built, which does no I/O. Re-entrant, for finalizers.
        self._lock = threading.RLock()
        renew_after_fork(self)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> RedisConnection:
        """Connect to `url`; `options` are the other fields of `RedisOptions`."""
        url = hidden(url)  # error trackers show the local variables
        return cls(RedisOptions(url=url, **options))

    def after_fork(self) -> None:
        """Let go of the parent's clients, whose sockets are shared with it - without closing them."""
        self._inherited.append((self._sync, self._loops, self._pool, self._pools))
        self._lock = threading.RLock()
        self._sync, self._loops = None, {}
        self._pool, self._pools = None, {}

    @property
    def sync(self) -> redis.Redis:
        """The client for blocking code, safe to share between threads."""
        if (client := self._sync) is not None:
            return client
        with self._lock:
            client = self._sync or self._build("redis", self._sync_settings)
            self._sync = client
            return client

    @property
    def aio(self) -> redis.asyncio.Redis:
        """The client of the running event loop, closed with it."""
        from resilience.redis import _connection_aio  # noqa: PLC0415 - blocking programs never need it

        client: redis.asyncio.Redis = _connection_aio.of_loop(self._loops, self._lock, self._build_awaiting)
        return client

    @property
    def pool(self) -> ConnectionPool:
        """The connections of the process's threads for scripts."""
        if (pool := self._pool) is not None:
            return pool
        with self._lock:
            pool = self._pool or ConnectionPool(self.options, self._connect)
            self._pool = pool
            return pool

    @property
    def aio_pool(self) -> AsyncConnectionPool:
        """The connections of the running event loop for scripts, closed with it."""
        from resilience.redis import _connection_aio  # noqa: PLC0415 - blocking programs never need it

        pool: AsyncConnectionPool = _connection_aio.of_loop(self._pools, self._lock, self._build_pool)
        return pool

    def evict(self) -> None:
        """Let no connection made so far be used again: the next use of each resolves the name and connects anew.

        Limiters call it at an outage, so that after a failover no connection stays with the demoted server. Commands
        under way are not disturbed. Sends nothing and never blocks.
        """
        self._generation.end()
        for pool in (self._pool, *[pool for pool, _ in tuple(self._pools.values())]):
            if pool is not None:
                pool.renew()

    @property
    def is_cluster_node(self) -> bool:
        """Whether the server is a node of a Redis Cluster, which limiters cannot use; False before a connection."""
        return self._generation.current.is_cluster_node

    def diagnose(self) -> str | None:
        """Return why the server cannot serve limiters, with what to do about it, or None if it can.

        Runs what limiters need, on a key of its own: `{<prefix>:ratelimit:.probe:}`. Blocks for a few round trips at
        most, each within `options.timeout`. Does not raise because of Redis. The text may name the server's address.
        """
        return diagnose(self)

    def close(self) -> None:
        """Close the blocking client; using it again opens a new one. Clients of event loops close with their loop."""
        with self._lock:
            client, self._sync = self._sync, None
            pool, self._pool = self._pool, None
        for each in (client, pool):
            if each is not None:
                each.close()

    def aclose(self) -> Coroutine[Any, Any, None]:
        """Close the client of the running event loop, and the blocking one."""
        from resilience.redis import _connection_aio  # noqa: PLC0415 - blocking programs never need it

        self.close()
        return _connection_aio.close(self._pools, self._loops)

    def _build_awaiting(self) -> redis.asyncio.Redis:
        client: redis.asyncio.Redis = self._build("redis.asyncio", self._settings("redis.asyncio.connection"))
        return client

    def _build_pool(self) -> AsyncConnectionPool:
        from resilience.redis import _connection_aio  # noqa: PLC0415 - blocking programs never need it

        # The pool bounds connecting and each exchange as a whole: redis-py's timers would not know of a late loop.
        settings = self._settings("redis.asyncio.connection")
        return _connection_aio.pool(self.options, _for_pool("redis.asyncio", settings, None))

    def _connect(self) -> AbstractConnection:
        """Return a new connection, blocking for at most `connect_timeout` a step."""
        settings = _for_pool("redis", self._sync_settings, self.options.connect_timeout)
        connection: AbstractConnection = settings.pop("connection_class")(**settings)
        try:
            connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            limit(connection, self.options.timeout)
        except BaseException:
            connection.disconnect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            raise
        return connection

    def _build(self, module: str, settings: dict[str, Any]) -> Any:
        package = import_module(module)
        pool = package.BlockingConnectionPool(
            max_connections=self.options.max_connections, timeout=self.options.timeout, **settings
        )
        return package.Redis.from_pool(pool)

    def _settings(self, module: str) -> dict[str, Any]:
        """Return what a connection is made with: the URL's word, then ours."""
        url = _spelt_for_redis(self.options.url)
        try:
            named: dict[str, Any] = import_module(module).parse_url(url)
        except ValueError:
            raise _unknown_parameter() from None
        for ours in ("max_connections", "timeout", "retry_on_timeout", "retry_on_error"):
            named.pop(ours, None)
        named["connection_class"] = _bounded(module, named.get("connection_class"))
        named["generation"] = self._generation
        found = {name: Secret(value) if name in _CREDENTIALS else value for name, value in named.items()}
        return found | _bounds(module, self.options.timeout, is_local="path" in named)

    def __repr__(self) -> str:
        where = urlsplit(self.options.url or "")
        return f"<RedisConnection {where.scheme}://{where.hostname or ''}{where.path}>"


def _for_pool(module: str, settings: dict[str, Any], timeout: float | None) -> dict[str, Any]:
    """Return the settings of a connection of our own pools, which try again by themselves."""
    from redis.backoff import NoBackoff  # noqa: PLC0415 - an extra

    never = import_module(f"{module}.retry").Retry(NoBackoff(), 0, supported_errors=())
    bounds = {name: timeout for name in ("socket_timeout", "socket_connect_timeout") if name in settings}
    return settings | bounds | {"retry": never, "retry_on_error": []}


def _require_redis() -> None:
    try:
        import_module("redis")
    except ImportError:
        install = 'pip install "resilience-plugins[redis]"'
        raise ConfigurationError(f"shared state needs the redis package: {install}") from None


def _check_parameters(settings: dict[str, Any]) -> None:
    """Make a connection, which sends nothing: what fails here would fail every call, and pass for an outage."""
    redis, named = import_module("redis"), dict(settings)
    kind = named.pop("connection_class", redis.Connection)
    try:
        kind(**named)
    except (TypeError, ValueError, redis.RedisError):
        raise _unknown_parameter() from None


def _unknown_parameter() -> ConfigurationError:
    hint = "a parameter after its ? is unknown to redis-py, or has a value that it cannot read"
    return ConfigurationError([Problem("url", "(hidden)", EXPECTED_URL, hint)])


def _spelt_for_redis(url: str | None) -> str:
    if url is None:
        raise ConfigurationError([Problem("url", None, EXPECTED_URL)])
    scheme, separator, rest = url.partition("://")
    return Secret(_SCHEMES.get(scheme, scheme) + separator + rest)


def _bounded(module: str, kind: type[Any] | None) -> type[Any]:
    """Return the class of connection: of the kind that the URL asks for, TCP by default."""
    kind = kind or import_module(module).Connection
    if not isinstance(kind, type):  # a parameter of the URL
        raise _unknown_parameter()
    if module.startswith("redis.asyncio"):
        from resilience.redis._bounded_aio import bounded_awaiting  # noqa: PLC0415 - blocking programs never need it

        return bounded_awaiting(kind)
    from resilience.redis._bounded import bounded  # noqa: PLC0415 - see above

    return bounded(kind)


def _bounds(module: str, timeout: float, *, is_local: bool) -> dict[str, Any]:
    from redis.backoff import NoBackoff  # noqa: PLC0415 - an extra
    from redis.exceptions import ConnectionError as NotConnected  # noqa: PLC0415 - an extra

    is_awaiting = module.startswith("redis.asyncio")
    retry = import_module("redis.asyncio.retry" if is_awaiting else "redis.retry").Retry
    return {
        "socket_timeout": timeout,
        **_bounded_connecting(module, timeout, is_local=is_local),
        # Once, and only for a connection that is gone: a server that is slow is not asked twice.
        "retry": retry(NoBackoff(), 1, supported_errors=(NotConnected,)),
        "retry_on_error": [NotConnected],  # redis-py before 6 asks here as well
        "health_check_interval": 0,
        "protocol": 2,
        **_without_introduction(),
    }


def _bounded_connecting(module: str, timeout: float, *, is_local: bool) -> dict[str, float]:
    """Return the bound on connecting; connecting to a local socket never blocks, and older redis-py takes no bound."""
    import inspect  # noqa: PLC0415 - 10 ms that only who connects pays

    knows = inspect.signature(import_module(module).AbstractConnection.__init__).parameters
    return {"socket_connect_timeout": timeout} if not is_local or "socket_connect_timeout" in knows else {}


def _without_introduction() -> dict[str, Any]:
    """Return the settings that keep a new connection from spending round trips on telling the client's name."""
    with contextlib.suppress(ImportError):
        import_module("redis.driver_info")
        return {"driver_info": None}
    return {"lib_name": None, "lib_version": None}
