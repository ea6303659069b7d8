"""Connectors of blocking sockets, with TLS and without."""

from __future__ import annotations

import contextlib
import socket
import ssl
from functools import partial

from resilience._support.tls import PathText, client_context, name_of_server
from resilience.clock import monotonic
from resilience.connectors._address import Address, Length, left, shares
from resilience.options import Duration, checked
from resilience.pool import Connector

__all__ = ("tcp", "tls")

_LONGEST_FAREWELL = 1.0
_TIMEOUT = Duration(above=True)


def tcp(
    host: str, port: int, *, connect_timeout: Length = 5.0, timeout: Length | None = 5.0
) -> Connector[socket.socket]:
    """Return the connector of TCP sockets, for a `Pool`.

    Before a socket is lent that was not used within `alive_bypass`, it is checked without a round trip: the check fails
    if the server has closed the connection, or has sent bytes that no borrower has read. After an exception in the
    block the socket is closed, because an answer may be on its way. `TCP_NODELAY` and `SO_KEEPALIVE` are set.

    Args:
        host: The name or the IP address of the server. If a name has several addresses, they are tried in turn.
        port: The port, 1 to 65535.
        connect_timeout: The longest time for all addresses: seconds, a `timedelta` or text. A thread cannot be ended
            from outside, so it is a limit apart from that of the pool.
        timeout: The longest time of one call of the socket, such as `recv`, after which it raises `TimeoutError`. None
            is no limit: a server that does not answer then holds its borrower for ever.

    Raises:
        ConfigurationError: An argument has the wrong type or value.

    Example:
        >>> from resilience import Pool
        >>> pool = Pool(tcp("ledger.internal", 7000), maximum_pool_size=5)
    """
    address = Address.of(host, port, connect_timeout)
    return Connector(
        connect=partial(_connect, address, _checked(timeout)), abort=_abort, check=_is_quiet, discard_on=(Exception,)
    )


def tls(
    host: str,
    port: int,
    *,
    ca: PathText | None = None,
    certificate: PathText | None = None,
    key: PathText | None = None,
    context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    connect_timeout: Length = 5.0,
    timeout: Length | None = 5.0,
) -> Connector[ssl.SSLSocket]:
    """Return the connector of TLS sockets, for a `Pool`. The files are read once, now.

    The certificate of the server and its name are checked. The rest is as in `tcp`.

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
        timeout: The longest time of one call of the socket; None is no limit.

    Raises:
        ConfigurationError: An argument has the wrong type or value, or a file is missing or wrong.

    Example:
        >>> from resilience import Pool
        >>> pool = Pool(tls("ledger.internal", 7443), maximum_pool_size=5)
    """
    address = Address.of(host, port, connect_timeout)
    prepared = client_context(context, ca, certificate, key)
    connect = partial(_connect_tls, address, _checked(timeout), prepared, name_of_server(server_hostname, host))
    return Connector(connect=connect, close=_close_tls, abort=_abort, check=_is_quiet, discard_on=(Exception,))


def _checked(timeout: Length | None) -> float | None:
    return None if timeout is None else float(checked(timeout, "timeout", _TIMEOUT))


def _connect(address: Address, timeout: float | None) -> socket.socket:
    connection = _dial(address, monotonic() + address.connect_timeout)
    connection.settimeout(timeout)
    return connection


def _connect_tls(
    address: Address, timeout: float | None, context: ssl.SSLContext, server_hostname: str
) -> ssl.SSLSocket:
    until = monotonic() + address.connect_timeout
    plain = _dial(address, until)
    try:
        plain.settimeout(left(until))  # of the whole handshake
        connection = context.wrap_socket(plain, server_hostname=server_hostname)
    finally:
        plain.close()  # does nothing after the handshake: the socket was moved
    connection.settimeout(timeout)
    return connection


def _dial(address: Address, until: float) -> socket.socket:
    """Return a socket that is connected to the first address of the host that answers."""
    failures: list[OSError] = []
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        for (family, kind, protocol, _, where), share in shares(found, until):
            connection = socket.socket(family, kind, protocol)
            try:
                _reach(connection, where, share)
            except OSError as error:
                failures.append(error)
            else:
                return connection
        raise failures[-1]
    finally:
        failures.clear()  # an error refers to this frame, and so to the socket


def _reach(connection: socket.socket, where: object, seconds: float) -> None:
    try:
        connection.settimeout(seconds)
        connection.connect(where)  # type: ignore[arg-type]  # of `getaddrinfo`
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except BaseException:
        connection.close()
        raise


def _is_quiet(connection: socket.socket) -> bool:
    """Return whether the connection is open and has no bytes to read.

    A byte that is there makes the connection useless, so it may be read. The readiness of the descriptor says less: a
    TLS server sends tickets after the handshake, which are no answer to any borrower.
    """
    timeout = connection.gettimeout()
    connection.settimeout(0)
    try:
        connection.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    finally:
        connection.settimeout(timeout)
    return False


def _close_tls(connection: ssl.SSLSocket) -> None:
    """Send the farewell of TLS, so that the server can distinguish an end from a cut connection."""
    try:
        connection.settimeout(_LONGEST_FAREWELL)
        with contextlib.suppress(OSError, ValueError):  # the server is gone, or does not answer
            connection.unwrap()
    finally:
        connection.close()


def _abort(connection: socket.socket) -> None:
    """End the connection, and wake a borrower that waits in `recv` or `send`.

    The descriptor stays open until the borrower gives the socket back or drops it. If it were closed under a thread
    that uses it, the system could give its number to another connection.
    """
    with contextlib.suppress(OSError):  # it has ended already
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
