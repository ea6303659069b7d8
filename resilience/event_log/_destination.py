"""The host of the request that a client sends, for the lines of policies that are not one per host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, TypeAlias

from resilience._support.printable import one_line

__all__ = ("Destination", "current_destination")

_Named: TypeAlias = tuple[Callable[[Any], str], object]
_current: ContextVar[_Named | None] = ContextVar("resilience_destination", default=None)


def current_destination() -> str:
    """Return the host of the request that is being sent, "" outside of one or if the host has no text."""
    named = _current.get()
    if named is None:
        return ""
    host_of, request = named
    try:
        return one_line(host_of(request))
    except Exception:  # noqa: BLE001 - a URL of the caller that cannot be read must not end his call
        return ""


class Destination:
    """Names the host of a request in the log, for the policies of a client that serve all hosts: retry and timeout.

    Args:
        host_of: Returns the host. It is called only if a line is written.
        request: The request, its argument.

    Example:
        >>> with Destination(str, "bank.example"):
        ...     current_destination()
        'bank.example'
    """

    __slots__ = ("_named", "_token")

    def __init__(self, host_of: Callable[[Any], str], request: object) -> None:
        self._named: _Named = (host_of, request)
        self._token: Token[_Named | None] | None = None

    def __enter__(self) -> None:
        self._token = _current.set(self._named)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            with contextlib.suppress(ValueError):  # a coroutine that was dropped is closed in another context
                _current.reset(self._token)
