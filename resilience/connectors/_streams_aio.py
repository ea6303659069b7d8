"""Connectors of asyncio streams, with TLS and without."""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import partial
from typing import NamedTuple, TypedDict

from resilience._support.tls import PathText, client_context, name_of_server
from resilience.clock import monotonic
from resilience.connectors._address import Address, Length, shares
from resilience.options import Whole, checked
from resilience.pool import Connector

__all__ = ("StreamPair", "aio_tcp", "aio_tls")

_BUFFER = 65_536
_MAX_BUFFER = 2**30


class StreamPair(NamedTuple):
    """The two streams of a connection: `reader`, from the server, and `writer`, to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class _StreamArguments(TypedDict):
    family: int
    ssl: ssl.SSLContext | None
    server_hostname: str | None


def aio_tcp(
    host: str, port: int, *, connect_timeout: Length = 5.0, buffer_limit: int = _BUFFER
) -> Connector[StreamPair]:
    r"""Return the connector of TCP streams, for an `AsyncPool`.

    Before a connection is lent that was not used within `alive_bypass`, it is checked without a round trip: the check
    fails if the server has closed the connection, or has sent bytes that no borrower has read. After an exception or a
    cancellation in the block the connection is closed, because an answer may be on its way. Reading and writing have no
    limit of time: use `asyncio.timeout`, or a `Timeout` in the pipeline of the call.

    Args:
        host: The name or the IP address of the server. If a name has several addresses, they are tried in turn.
        port: The port, 1 to 65535.
        connect_timeout: The longest time for all addresses: seconds, a `timedelta` or text.
        buffer_limit: The `limit` of the reader in bytes: the longest line of `readline`, up to 1 GiB.

    Raises:
        ConfigurationError: An argument has the wrong type or value.

    Example:
        >>> from resilience import AsyncPool
        >>> pool = AsyncPool(aio_tcp("ledger.internal", 7000), maximum_pool_size=5)
        >>> async def balance(account):
        ...     async with pool.connection() as (reader, writer):
        ...         writer.write(account + b"\n")
        ...         return await reader.readline()
    """
    connect = partial(_connect, Address.of(host, port, connect_timeout), _checked(buffer_limit), None, None)
    return Connector(connect=connect, close=_close, abort=_abort, check=_is_quiet, discard_on=(Exception,))


def aio_tls(
    host: str,
    port: int,
    *,
    ca: PathText | None = None,
    certificate: PathText | None = None,
    key: PathText | None = None,
    context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    connect_timeout: Length = 5.0,
    buffer_limit: int = _BUFFER,
) -> Connector[StreamPair]:
    """Return the connector of TLS streams, for an `AsyncPool`. The files are read once, now.

    The certificate of the server and its name are checked. The rest is as in `aio_tcp`.

    Args:
        host: The name or the IP address of the server.
        port: The port, 1 to 65535.
        ca: The PEM file with the certificates of the authorities that have signed the server. Default: those of the
            system.
        certificate: The PEM file with the client's certificate, for servers that check the client (mutual TLS).
        key: The PEM file with the private key of `certificate`, without a passphrase. Default: it is in `certificate`.
        context: A context in place of the three files.
        server_hostname: The name that the server's certificate must have, also sent as SNI. Default: `host`.
        connect_timeout: The longest time for connecting and for the handshake.
        buffer_limit: The `limit` of the reader in bytes.

    Raises:
        ConfigurationError: An argument has the wrong type or value, or a file is missing or wrong.

    Example:
        >>> from resilience import AsyncPool
        >>> pool = AsyncPool(aio_tls("ledger.internal", 7443), maximum_pool_size=5)
    """
    address = Address.of(host, port, connect_timeout)
    prepared = client_context(context, ca, certificate, key)
    connect = partial(_connect, address, _checked(buffer_limit), prepared, name_of_server(server_hostname, host))
    return Connector(connect=connect, close=_close, abort=_abort, check=_is_quiet, discard_on=(Exception,))


def _checked(buffer_limit: int) -> int:
    return int(checked(buffer_limit, "buffer_limit", Whole(1, _MAX_BUFFER)))


async def _connect(
    address: Address, buffer_limit: int, context: ssl.SSLContext | None, server_hostname: str | None
) -> StreamPair:
    until, failures = monotonic() + address.connect_timeout, list[OSError]()
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        # Not `happy_eyeballs_delay`: the loop of uvloop does not have it.
        for (family, _, _, _, where), share in shares(found, until):
            options: _StreamArguments = {"family": family, "ssl": context, "server_hostname": server_hostname}
            try:
                async with asyncio.timeout(share):
                    reader, writer = await asyncio.open_connection(
                        str(where[0]), address.port, limit=buffer_limit, **options
                    )
                    return StreamPair(reader, writer)
            except OSError as error:  # `TimeoutError` is one
                failures.append(error)
        raise failures[-1]
    finally:
        failures.clear()  # an error refers to this frame


async def _is_quiet(streams: StreamPair) -> bool:
    """Return whether the connection is open and has no bytes to read.

    A byte that is there makes the connection useless, so it may be read.
    """
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the loop looks at its sockets in the first turn, and feeds the reader in the second
    try:
        async with asyncio.timeout(0):
            await streams.reader.read(1)
    except TimeoutError:
        return not streams.writer.is_closing()
    return False


async def _close(streams: StreamPair) -> None:
    streams.writer.close()
    await streams.writer.wait_closed()


def _abort(streams: StreamPair) -> None:
    streams.writer.transport.abort()
