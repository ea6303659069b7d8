"""The handler of a method: its parts, and the same kind of handler around another function.

grpcio has one class of handlers, with a slot for each of the four kinds of methods. Two facts make the kind: whether
requests are streamed, and whether responses are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import grpc

from resilience_grpc._types import Behaviour, Codec

__all__ = ("Handler", "HandlerCache", "RpcMethod", "handler_for", "rpc_method")

Handler: TypeAlias = "grpc.RpcMethodHandler[object, object]"

_KINDS: dict[tuple[bool, bool], tuple[str, Callable[[Behaviour, Codec | None, Codec | None], Handler]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
_MAX_METHODS = 1024


class RpcMethod(NamedTuple):
    """One method of a service: its full name, its kind, and the function behind it."""

    name: str
    request_streaming: bool
    response_streaming: bool
    behaviour: Behaviour


def rpc_method(name: str, handler: Handler) -> RpcMethod:
    """Return the method that a handler serves under this name."""
    kind = bool(handler.request_streaming), bool(handler.response_streaming)
    return RpcMethod(name, *kind, getattr(handler, _KINDS[kind][0]))


def handler_for(
    method: RpcMethod, behaviour: Behaviour, deserializer: Codec | None, serializer: Codec | None
) -> Handler:
    """Return a handler of the kind of `method` for another function."""
    make = _KINDS[method.request_streaming, method.response_streaming][1]
    return make(behaviour, deserializer, serializer)


class HandlerCache:
    """Keeps the guarded handler of each method. Most servers return the same handler for every call of a method.

    Args:
        build: Makes the guarded handler from the full name of a method and the handler of the server.
    """

    __slots__ = ("_build", "_guarded")

    def __init__(self, build: Callable[[str, Handler], Handler]) -> None:
        self._build = build
        self._guarded: dict[str, tuple[Handler, Handler]] = {}

    def guarded(self, name: str, handler: Handler) -> Handler:
        """Return the guarded handler for `handler`, built at the first call."""
        known = self._guarded.get(name)
        if known is not None and known[0] is handler:
            return known[1]
        if len(self._guarded) >= _MAX_METHODS:  # a proxy has a handler for every name, and its clients choose the names
            self._guarded.clear()
        built = self._build(name, handler)
        self._guarded[name] = handler, built
        return built
