"""The one place that builds Redis clients: bounded in time and number, with no hidden retries."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast
from urllib.parse import urlsplit

from resilience._support.fork import renew_after_fork
from resilience._support.redaction import hidden
from resilience.redis._bounded import Generations
from resilience.redis._clients import Clients
from resilience.redis._errors import CLUSTER, explain, is_redirect
from resilience.redis._exchange import limit
from resilience.redis._options import RedisOptions
from resilience.redis._pool import ConnectionPool
from resilience.redis._script import ScriptCall, diagnosis_key, run_diagnosis
from resilience.redis._settings import (
    AWAITING,
    BLOCKING,
    Settings,
    check_companions,
    check_parameters,
    connection_to,
    for_own_pool,
    require_redis,
    settings_for,
    settings_of_node,
)
from resilience.redis._url import Topology, place_of
from resilience.redis.cluster._cluster import Cluster, Shard
from resilience.redis.cluster._diagnosis import diagnosis_of
from resilience.redis.cluster._loader import TableLoader

if TYPE_CHECKING:
    import redis
    import redis.asyncio
    from redis.asyncio.connection import AbstractConnection as AsyncConnection
    from redis.connection import AbstractConnection

    from resilience.redis._pool_aio import AsyncConnectionPool
    from resilience.redis._sentinel import MasterSource

__all__ = ("RedisConnection",)

C = TypeVar("C", bound=ScriptCall)

MAX_THREAD_LINKS = 4
"""Connections on which threads run scripts. Further threads share round trips: more connections cost more time of the
interpreter than they save, and one connection would let a lost packet stop every thread."""


class Companion(Protocol):
    """An object that exists once for each connection."""

    def close(self) -> None:
        """End with the connection. Blocks for `options.timeout` at most."""
        ...


class RedisConnection:
    """Clients of one Redis, made at their first use: one for blocking code, one for each event loop.

    `options.timeout` bounds every wait of a client: for a connection, for connecting, and for a reply, in however many
    pieces it comes. redis-py's own defaults (ten retries, timeouts of 5 s) do not apply, nor do timeouts in the URL.
    A client replaces a connection that went stale in its pool once per command. A forked child makes its own clients.

    Limiters have connections of their own, `pool` and `aio_pool`, which connect in the background.

    Args:
        options: The URL, the timeouts and the number of connections.
        source: The shard of a cluster to which all connections lead; None for the servers of the URL.

    Raises:
        ConfigurationError: There is no URL, redis-py cannot read it, a certificate file is wrong, or redis is not
            installed.

    Example:
        >>> from resilience.redis import RedisConnection
        >>> RedisConnection.from_url("redis://localhost:6379/0", timeout="50ms")
        <RedisConnection redis://localhost/0>
    """

    def __init__(self, options: RedisOptions, *, source: MasterSource | None = None) -> None:
        self.options = options
        require_redis()
        self.cluster = self._cluster_of(options) if source is None else None
        """The masters of the cluster that the URL names; None for any other URL, and for one of its shards."""
        self._source = source or self.cluster
        self._generations = Generations(is_asked=self._source is not None)
        self._is_split = self._source is not None
        self.is_redirect: Callable[[object], bool] = _never if self._source is None else is_redirect
        """Whether a reply is an error with which a node names another one."""
        self._connections: dict[Shard, RedisConnection] = {}
        self._settings = settings_for(BLOCKING, options, self._generations, self._source)
        check_companions(options)
        check_parameters(self._settings)
        self._clients = Clients(self._build_aio, self._build_aio_pool)
        self._inherited: list[Clients] = []
        self.companions: dict[type[object], Companion] = {}
        """The objects that exist once for each connection, such as its fleet, by their class."""
        renew_after_fork(self)

    def _cluster_of(self, options: RedisOptions) -> Cluster | None:
        if options.url is None or (place := place_of(options.url)).topology is not Topology.CLUSTER:
            return None
        loader = TableLoader(place.endpoints, functools.partial(connection_to, settings_of_node(options)))
        return Cluster(loader, options.connect_timeout, self._shard_moved, self._shard_gone)

    def at(self, shard: Shard) -> RedisConnection:
        """Return the connections to one shard of the cluster, made at the first use."""
        if shard.endpoint is None:
            return self
        known = self._connections.get(shard)
        # `setdefault` is one step: two threads that come first get the same object, and another one has connected to
        # nothing.
        return known or self._connections.setdefault(shard, RedisConnection(self.options, source=shard))

    def _shard_moved(self, shard: Shard) -> None:
        if (known := self._connections.get(shard)) is not None:
            known.evict()

    def _shard_gone(self, shard: Shard) -> None:
        if (known := self._connections.pop(shard, None)) is not None:
            known.close()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Return the connection of a server.

        Args:
            url: Such as `redis://localhost:6379/0`; also `rediss://` (TLS) and `unix://`, and
                `redis+sentinel://host1,host2/service` for a master that Sentinel knows, and
                `redis+cluster://host1,host2` for a cluster, of which the URL names some nodes.
            options: The other fields of `RedisOptions`, such as `timeout` and `outage`.

        Raises:
            ConfigurationError: As for `RedisConnection`, and for each option that is wrong.
        """
        url = hidden(url)  # error trackers show the local variables
        return cls(RedisOptions(url=url, **options))

    def after_fork(self) -> None:
        """Let go of the parent's clients without closing them: the child shares their sockets with the parent."""
        self._inherited.append(self._clients)
        self._clients = Clients(self._build_aio, self._build_aio_pool)

    @property
    def sync(self) -> redis.Redis:
        """The client for blocking code, safe to share between threads. On a cluster it is one of any master.

        Such a master answers MOVED for keys of the others: use `client_of`, or a `redis.RedisCluster` of your own.
        """
        clients = self._clients
        if (client := clients.sync) is not None:
            return client
        with clients.lock:
            client = clients.sync or cast("redis.Redis", self._build(BLOCKING, self._settings))
            clients.sync = client
            return client

    def client_of(self, key: bytes) -> redis.Redis:
        """Return the blocking client of the server that has `key`, for a few commands that are no limits.

        On a cluster this loads the table of slots first, within `options.connect_timeout`.

        Args:
            key: The key of the command.

        Raises:
            ConnectionError: Of redis-py: no node of the cluster names its slots.
        """
        if self.cluster is None:
            return self.sync
        self.cluster.refresh(None)
        return self.at(self.cluster.shard_with(key)).sync

    @property
    def aio(self) -> redis.asyncio.Redis:
        """The client of the running event loop, closed with it. On a cluster it is one of any master, as `sync` is."""
        return self._clients.aio.current()

    @property
    def pool(self) -> ConnectionPool:
        """The connections that the threads of this process use for scripts."""
        clients = self._clients
        if (pool := clients.pool) is not None:
            return pool
        with clients.lock:
            pool = clients.pool or self.new_pool()
            clients.pool, clients.is_used = pool, True
            return pool

    def new_pool(self) -> ConnectionPool:
        """Return a pool of connections of its own, which the caller closes."""
        most = min(self.options.max_connections, MAX_THREAD_LINKS)
        return ConnectionPool(dataclasses.replace(self.options, max_connections=most), self._connect)

    @property
    def pools_in_use(self) -> tuple[ConnectionPool | None, list[AsyncConnectionPool]] | None:
        """The pool of threads, if there is one, and those of event loops; None if no pool was made since `close`."""
        clients = self._clients
        return (clients.pool, clients.aio_pools.all()) if clients.is_used else None

    @property
    def aio_pool(self) -> AsyncConnectionPool:
        """The connections that the running event loop uses for scripts, closed with it."""
        return self._clients.aio_pools.current()

    def new_connection(self) -> AbstractConnection:
        """Return a connection of no pool, which the caller owns and closes. Blocks for the time of connecting."""
        return self._connect()

    @property
    def database(self) -> int:
        """The number of the database: keys are of one database, but the channels of a server are of all of them."""
        return int(self._settings.get("db") or 0)

    def slot_of(self, key: bytes) -> Hashable:
        """Return the hash slot of `key`: one script call has keys of one slot. A server without cluster mode has one.

        On the shards of a cluster each key counts as a slot of its own: while its slot is moved, a node refuses a call
        for several keys of which it has some only.

        Args:
            key: The key as it is sent.
        """
        if not (self._is_split or self._generations.current.is_cluster_node):
            return None
        if self._source is not None:
            return key
        from redis.crc import key_slot  # noqa: PLC0415 - an extra

        return key_slot(key)

    def routed(self, calls: Sequence[C]) -> Sequence[tuple[RedisConnection, Sequence[C]]]:
        """Return script calls by the connection that leads to their keys: this one, or those of the shards.

        Args:
            calls: The keys and the arguments of each; the keys of a call are in one hash slot.
        """
        if self.cluster is None:
            return ((self, calls),)
        return [(self.at(shard), some) for shard, some in self.cluster.routed(calls)]

    def split_slots(self) -> None:
        """Send keys of different hash slots in different calls from now on: the server has refused them in one.

        A proxy of a cluster does so, and it does not say that it is one.
        """
        self._is_split = True

    def evict(self) -> None:
        """Use no connection again that exists now: the next use of each resolves the host name and connects anew.

        Limiters call it at an outage, so that after a failover no connection stays with the demoted server. Commands
        under way are not disturbed. Sends nothing and never blocks.
        """
        self._generations.renew()
        clients = self._clients
        for pool in (clients.pool, *clients.aio_pools.all()):
            if pool is not None:
                pool.renew()

    @property
    def is_cluster_node(self) -> bool:
        """Whether the server is a node of a Redis Cluster, which limiters cannot use. False before a connection."""
        return self._generations.current.is_cluster_node

    def diagnose(self) -> str | None:
        """Return why the server cannot serve limiters, and what to do about it; None if it can serve them.

        Runs the commands that limiters need, on a key of its own: `{<prefix>:ratelimit:.probe:}`. Blocks for a few
        round trips at most, each within `options.timeout`. Does not raise because of Redis. The text may name the
        address of the server.
        """
        if self.cluster is not None:
            return diagnosis_of(self.cluster, self.options.prefix, self._diagnose_shard)
        from redis.exceptions import RedisError  # noqa: PLC0415 - an extra

        try:
            run_diagnosis(self.sync, diagnosis_key(self.options.prefix))
        except (RedisError, OSError) as error:
            self.evict()
            return explain(error, self.options.prefix)
        return CLUSTER if self.is_cluster_node else None

    def _diagnose_shard(self, shard: Shard, key: bytes) -> None:
        connection = self.at(shard)
        try:
            run_diagnosis(connection.sync, key)
        except Exception:
            connection.evict()
            raise

    def close(self) -> None:
        """Close the blocking client, and leave the fleet; using either again opens a new one.

        Clients of event loops close with their loop. Blocks for `options.timeout` at most.
        """
        for companion in tuple(self.companions.values()):
            companion.close()
        for connection in tuple(self._connections.values()):
            connection.close()
        clients = self._clients
        with clients.lock:
            client, clients.sync = clients.sync, None
            pool, clients.pool = clients.pool, None
            clients.is_used = False
        for each in (client, pool):
            if each is not None:
                each.close()

    async def aclose(self) -> None:
        """Close the client of the running event loop, and the blocking one."""
        self.close()
        for connection in tuple(self._connections.values()):
            await connection.aclose()
        await self._clients.aio_pools.aclose()
        await self._clients.aio.aclose()

    def _build(self, module: str, settings: Settings) -> redis.Redis | redis.asyncio.Redis:
        package = import_module(module)
        pool = package.BlockingConnectionPool(
            max_connections=self.options.max_connections, timeout=self.options.timeout, **settings
        )
        client: redis.Redis | redis.asyncio.Redis = package.Redis.from_pool(pool)
        return client

    def _build_aio(self) -> redis.asyncio.Redis:
        settings = settings_for(AWAITING, self.options, self._generations, self._source)
        return cast("redis.asyncio.Redis", self._build(AWAITING, settings))

    def _build_aio_pool(self) -> AsyncConnectionPool:
        from resilience.redis._pool_aio import AsyncConnectionPool  # noqa: PLC0415 - it imports asyncio

        self._clients.is_used = True
        # The pool bounds connecting and each exchange as a whole: redis-py's timers would not know of a late loop.
        settings = for_own_pool(AWAITING, settings_for(AWAITING, self.options, self._generations, self._source), None)
        return AsyncConnectionPool(self.options, functools.partial(_aconnect, settings))

    def _connect(self) -> AbstractConnection:
        """Return a new connection, blocking for at most `connect_timeout` a step."""
        settings = for_own_pool(BLOCKING, self._settings, self.options.connect_timeout)
        connection: AbstractConnection = settings.pop("connection_class")(**settings)
        try:
            connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            limit(connection, self.options.timeout)
        except BaseException:
            connection.disconnect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            raise
        return connection

    def __repr__(self) -> str:
        where = urlsplit(self.options.url or "")
        hosts = ",".join(map(str, place_of(self.options.url or "").endpoints)) or where.hostname or ""
        return f"<RedisConnection {where.scheme}://{hosts}{where.path}>"


def _never(_reply: object) -> bool:
    return False


async def _aconnect(settings: Settings) -> AsyncConnection:
    """Return a new connection of the running event loop."""
    arguments = dict(settings)
    connection: AsyncConnection = arguments.pop("connection_class")(**arguments)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection
