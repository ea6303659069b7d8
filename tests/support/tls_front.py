"""A server of TLS in front of a Redis that has none: Valkey from PyPI is built without it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ("tls_front",)


@contextlib.contextmanager
def tls_front(target: int, pki: Path, *, checks_clients: bool = False) -> Iterator[int]:
    """Serve TLS with the certificate of `localhost` in `pki`, and pass the plain bytes on; yield the port.

    Args:
        target: The port of the Redis on this machine.
        pki: The folder of `make_certificates`.
        checks_clients: Whether clients have to show a certificate of the authority.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    if checks_clients:
        context.load_verify_locations(pki / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    with contextlib.ExitStack() as opened, socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(plain: socket.socket) -> None:
            with contextlib.suppress(OSError):  # a handshake that failed, or an end that closed first
                client = opened.enter_context(context.wrap_socket(plain, server_side=True))
                server = opened.enter_context(socket.create_connection(("127.0.0.1", target)))
                threading.Thread(target=pump, args=(server, client), daemon=True).start()
                pump(client, server)

        def accept() -> None:
            with contextlib.suppress(OSError):  # the listener is closed
                while True:
                    plain, _ = listener.accept()
                    threading.Thread(target=serve, args=(opened.enter_context(plain),), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what `source` sends, until it ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
