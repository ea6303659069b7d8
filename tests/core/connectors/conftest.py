from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from line_server import LineServer


@pytest.fixture
def plain_server() -> Iterator[LineServer]:
    """Start a server of lines."""
    with LineServer() as server:
        yield server


@pytest.fixture
def tls_server(pki: Path) -> Iterator[LineServer]:
    """Start a server of lines over TLS, for `localhost`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    with LineServer(context) as server:
        yield server
