"""Servers for the tests of several adapters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unix_server import Server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers, and end them with the test."""
    with contextlib.ExitStack() as stack:

        def build(name: str, **settings: str) -> Server:
            server = Server(tmp_path, name, **settings)
            stack.callback(server.close)
            return server

        yield build
