"""Pools of blocking sockets, against real servers on loopback."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from line_server import LineServer

from resilience import ConfigurationError, Pool, PoolTimeoutError
from resilience.connectors import tcp, tls
from resilience.connectors._address import shares


def ask(connection: socket.socket, line: bytes = b"balance\n") -> bytes:
    connection.sendall(line)
    return connection.recv(1000)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that another thread brings about."""
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        threading.Event().wait(0.001)


@pytest.fixture(params=["tcp", "tls"])
def served(request: pytest.FixtureRequest, pki: Path) -> tuple[LineServer, Any]:
    """Start a server, and make the connector of its clients, in both kinds."""
    server: LineServer = request.getfixturevalue("plain_server" if request.param == "tcp" else "tls_server")
    if request.param == "tcp":
        return server, tcp("127.0.0.1", server.port)
    return server, tls("127.0.0.1", server.port, ca=pki / "ca.pem", server_hostname="localhost")


def test_a_socket_is_lent_again(served: tuple[LineServer, Any]) -> None:
    """Two borrowers in turn use one socket, with its timeout, and the check between them leaves no trace."""
    server, connector = served
    with Pool(connector, alive_bypass=0) as pool:
        for _ in range(3):
            with pool.connection() as connection:
                assert ask(connection) == b"ok balance\n"
                assert connection.gettimeout() == 5.0
        assert server.accepted == 1


def test_a_socket_that_was_never_used_is_alive(served: tuple[LineServer, Any]) -> None:
    """The tickets that a TLS server sends after the handshake are no reason to close a connection."""
    server, connector = served
    with Pool(connector, minimum_idle=1, alive_bypass=0) as pool:
        until(lambda: pool.snapshot()["idle"] == 1)
        until(lambda: len(server.open) == 1)
        threading.Event().wait(0.05)  # the tickets are on their way
        with pool.connection() as connection:
            assert ask(connection) == b"ok balance\n"
            assert pool.snapshot()["closed"] == {}


def test_a_socket_that_the_server_closed_is_not_lent(served: tuple[LineServer, Any]) -> None:
    """The next borrower gets a new connection."""
    server, connector = served
    with Pool(connector, alive_bypass=0) as pool:
        with pool.connection() as first:
            ask(first)
        server.hang_up()
        with pool.connection() as second:
            assert ask(second) == b"ok balance\n"
        assert second is not first
        assert pool.snapshot()["closed"] == {"check failed": 1}


def test_a_socket_with_bytes_to_read_is_not_lent(served: tuple[LineServer, Any]) -> None:
    """Bytes that no borrower has read are the answer to an earlier one: no other borrower may get them."""
    server, connector = served
    with Pool(connector, alive_bypass=0) as pool:
        with pool.connection() as first:
            ask(first)
            server.push(b"late\n")
            first.settimeout(5)
            assert first.recv(1) == b"l"  # the rest has arrived, too
        with pool.connection() as second:
            assert ask(second) == b"ok balance\n"
        assert second is not first


def test_an_error_closes_the_socket(served: tuple[LineServer, Any]) -> None:
    """After an exception in the block, such as a timeout, an answer may be on its way: no other borrower gets it."""
    _, connector = served
    with Pool(connector, alive_bypass=0) as pool:
        with pytest.raises(TimeoutError), pool.connection() as connection:  # noqa: PT012 - the block is the subject
            connection.settimeout(0.01)
            ask(connection, b"slow\n")
        with pool.connection() as connection:
            assert ask(connection) == b"ok balance\n"
        assert pool.snapshot()["closed"] == {"error in use": 1}


def test_a_server_that_is_down_is_the_cause(plain_server: LineServer) -> None:
    """The error of a borrower has the refusal of the connection as its cause."""
    plain_server.close()
    with (
        Pool(tcp("127.0.0.1", plain_server.port), connection_timeout="300ms") as pool,
        pytest.raises(PoolTimeoutError, match="ConnectionRefusedError") as caught,
    ):
        pool.acquire()
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_a_tls_server_gets_the_farewell(tls_server: LineServer, pki: Path) -> None:
    """A closed pool ends TLS in good order: the server sees no cut connection."""
    connector = tls("127.0.0.1", tls_server.port, ca=pki / "ca.pem", server_hostname="localhost")
    with Pool(connector) as pool, pool.connection() as connection:
        ask(connection)
    until(lambda: tls_server.farewells == 1)
    assert connection.fileno() == -1


def test_a_close_that_waits_in_vain_wakes_the_borrower(served: tuple[LineServer, Any]) -> None:
    """A borrower in `recv` goes on when the time of `close` is up. Its descriptor stays its own until then."""
    server, connector = served
    pool = Pool(connector)
    ends: list[Any] = []

    def borrow() -> None:
        with pool.connection() as connection:
            ends.append(connection)
            connection.settimeout(60)
            connection.sendall(b"slow\n")
            try:
                ends.append(connection.recv(1))
            except OSError as error:
                ends.append(error)

    borrower = threading.Thread(target=borrow)
    borrower.start()
    until(lambda: bool(ends) and bool(server.open))
    pool.close(timeout="10ms")
    borrower.join(20)
    assert not borrower.is_alive()
    until(lambda: ends[0].fileno() == -1)


def test_a_wrong_certificate_is_refused(tls_server: LineServer, pki: Path) -> None:
    """A server of another authority, or of another name, gets no connection."""
    kinds: tuple[dict[str, Any], ...] = (
        {"ca": pki / "stranger.pem", "server_hostname": "localhost"},
        {"ca": pki / "ca.pem"},
    )
    for arguments in kinds:
        with (
            Pool(tls("127.0.0.1", tls_server.port, **arguments), connection_timeout="300ms") as pool,
            pytest.raises(PoolTimeoutError) as caught,
        ):
            pool.acquire()
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


def test_mutual_tls(pki: Path) -> None:
    """A server that checks its clients serves one with a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    context.load_verify_locations(pki / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with LineServer(context) as server:
        files: dict[str, Any] = {"ca": pki / "ca.pem", "certificate": pki / "client.pem", "key": pki / "client.key"}
        connector = tls("127.0.0.1", server.port, **files, server_hostname="localhost")
        with Pool(connector) as pool, pool.connection() as connection:
            assert ask(connection) == b"ok balance\n"


def test_a_handshake_has_a_limit() -> None:
    """A server that accepts and says nothing costs `connect_timeout`, in which the handshake is included."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connector = tls("127.0.0.1", silent.getsockname()[1], connect_timeout="50ms")
        with pytest.raises(TimeoutError):
            connector.connect()


def test_each_address_has_its_share_of_the_time() -> None:
    """An address that does not answer leaves time for those after it."""
    now = time.monotonic()
    found = list(shares(("first", "second", "third"), now + 30))
    assert [address for address, _ in found] == ["first", "second", "third"]
    assert [share for _, share in found] == pytest.approx([10, 15, 30], abs=2)
    assert [share for _, share in shares(("late",), now - 1)] == [0.01]


def test_a_second_address_is_tried(plain_server: LineServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose first address refuses is reached at the next one."""
    kind, port = (socket.AF_INET, socket.SOCK_STREAM, 6, ""), plain_server.port
    found = [(*kind, ("127.0.0.2", port)), (*kind, ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with Pool(tcp("ledger.example", port)) as pool, pool.connection() as connection:
        assert ask(connection) == b"ok balance\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"host": ""}, "host="),
        ({"host": "http://ledger"}, "host="),
        ({"port": 0}, "port="),
        ({"port": "7000"}, "port="),
        ({"connect_timeout": 0}, "connect_timeout="),
        ({"timeout": -1}, "timeout="),
        ({"timeout": "soon"}, "timeout="),
    ],
)
def test_a_wrong_address_is_refused(arguments: dict[str, Any], message: str) -> None:
    """An argument that cannot work is named when the connector is made."""
    for make in (tcp, tls):
        with pytest.raises(ConfigurationError, match=message):
            make(**{"host": "ledger", "port": 7000, **arguments})


def test_wrong_files_are_refused(pki: Path) -> None:
    """A file that is missing, no PEM, locked or of another key is named when the connector is made."""
    for files, wrong in (
        ({"ca": "nowhere.pem"}, "ca"),
        ({"ca": "text.pem"}, "ca"),
        ({"key": "client.key"}, "certificate"),
        ({"certificate": "client.pem"}, "certificate"),
        ({"certificate": "server.pem", "key": "client.key"}, "certificate"),
        ({"certificate": "server.pem", "key": "locked.key"}, "certificate"),
    ):
        paths: dict[str, Any] = {option: pki / name for option, name in files.items()}
        with pytest.raises(ConfigurationError, match=rf"{wrong}="):
            tls("ledger", 7000, **paths)
    with pytest.raises(ConfigurationError, match="ca="):
        tls("ledger", 7000, ca=pki / "ca.pem", context=ssl.create_default_context())
    with pytest.raises(ConfigurationError, match="context="):
        tls("ledger", 7000, context="default")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ConfigurationError, match="server_hostname="):
        tls("ledger", 7000, server_hostname="")
