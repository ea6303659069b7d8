"""The four kinds of methods, taken apart and put together again around the same behaviour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

__all__ = ("Method", "Methods", "parts_of", "rebuilt")

_MAKERS: dict[tuple[bool, bool], tuple[str, Callable[..., Any]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
_MOST_METHODS = 1024


class Method(NamedTuple):
    """One method of the service: its full name, its kind, and the function behind it."""

    name: str
    takes_stream: bool
    gives_stream: bool
    behaviour: Callable[..., Any]


def parts_of(name: str, handler: Any) -> Method:
    """Return the method a handler serves."""
    kind = bool(handler.request_streaming), bool(handler.response_streaming)
    return Method(name, *kind, getattr(handler, _MAKERS[kind][0]))


def rebuilt(method: Method, behaviour: Callable[..., Any], deserializer: Any, serializer: Any) -> Any:
    """Return a handler of the same kind for another function."""
    make = _MAKERS[method.takes_stream, method.gives_stream][1]
    return make(behaviour, deserializer, serializer)


class Methods:
    """Remembers what was built around each handler: most servers give the same one for every call of a method."""

    __slots__ = ("_build", "_known")

    def __init__(self, build: Callable[[str, Any], Any]) -> None:
        self._build = build
        self._known: dict[str, tuple[Any, Any]] = {}

    def of(self, name: str, handler: Any) -> Any:
        """Return ours for `handler`."""
        known = self._known.get(name)
        if known is not None and known[0] is handler:
            return known[1]
        if len(self._known) >= _MOST_METHODS:  # a handler for every name, as proxies have: callers choose the names
            self._known.clear()
        ours = self._build(name, handler)
        self._known[name] = handler, ours
        return ours
