"""Servers and interceptors of `grpc` and of `grpc.aio` differ: a wrong one is refused, with the name of the right one.

grpcio itself refuses the interceptors of a channel, and those of a server of `grpc.aio`, when the object is made. A
server of `grpc` accepts any object, and finds out at the first call.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import grpc.aio

from resilience.errors import ConfigurationError, Problem

__all__ = ("check_server", "refuse_blocking_server", "refuse_server")


def check_server(server: object, user: str, *, is_aio: bool | None = None) -> None:
    """Refuse an object that is no server, or a server of the other colour.

    Args:
        server: The object.
        user: The function that needs a server.
        is_aio: Whether it needs one of `grpc.aio`. None if both fit.
    """
    is_server = hasattr(server, "add_generic_rpc_handlers") and hasattr(server, "stop")  # or a stand-in for one
    is_of_loop = isinstance(server, grpc.aio.Server)
    if is_server and is_aio in {None, is_of_loop}:
        return
    expected = {None: "a server of grpc or grpc.aio", False: "a server of grpc", True: "a server of grpc.aio"}[is_aio]
    hint = ""
    if is_server:
        hint = "write await adrain(server)" if is_of_loop else "write drain(server)"
    raise ConfigurationError([Problem(f"{user}(server)", server, expected, hint)])


def refuse_blocking_server() -> None:
    """Raise if a server of `grpc`, which has no event loop, calls an interceptor of `grpc.aio`."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:  # noqa: SLF001 - the public one raises
        raise ConfigurationError(
            "aio_server_interceptors are for grpc.aio.server: write server_interceptors() for grpc.server"
        )


def refuse_server() -> NoReturn:
    """Raise if a server calls an interceptor of a channel."""
    raise ConfigurationError("client_interceptors are for channels: write server_interceptors() for grpc.server")
