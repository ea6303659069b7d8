"""How connections of one kind are made, checked, cleaned and closed."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from resilience.errors import ConfigurationError, Problem
from resilience.options import Opaque, Refused, is_plain_callable

__all__ = ("AWAITING", "BLOCKING", "Connector", "close_by_method", "connector_of")

C = TypeVar("C")

Callback = Callable[[C], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connector(Generic[C]):
    """The functions of a pool for one kind of connection. The ready factories return such objects.

    A `Pool` takes plain functions. An `AsyncPool` takes coroutine functions for `connect`, `check` and `reset`; `close`
    may be of either kind there. `abort` is a plain function for both.

    Args:
        connect: Returns a new connection. It runs in the background, never in the borrower.
        close: Closes a connection in good order. Default: the method `aclose` or `close` of the connection, if any.
        abort: Ends a connection at once, without I/O that can block, such as the close of a socket without a farewell.
            The pool calls it if `close` fails or takes too long. Default: none.
        check: Finds out whether a connection still works: it raises, or returns False, if not. Default: none.
        reset: Makes a connection clean for the next borrower, such as a rollback. Default: none.
        between: Top-level packages between the borrowers and the pool, such as an ORM. The stack in a leak report
            begins above their frames. Default: none.
        discard_on: If one of these exceptions leaves the block of a borrower, the connection is closed, without a
            `check` or `reset`. `(Exception,)` is right for a `check` that cannot see an answer on its way, such as that
            of a socket: the next borrower would get it. Default: `check` and `reset` decide.

    Example:
        >>> import socket
        >>> connector = Connector(connect=lambda: socket.create_connection(("127.0.0.1", 7000)))
    """

    connect: Callable[[], Any]
    close: Callback[C] | None = None
    abort: Callback[C] | None = None
    check: Callback[C] | None = None
    reset: Callback[C] | None = None
    between: tuple[str, ...] = ()
    discard_on: tuple[type[BaseException], ...] = ()


_PLAIN = Opaque("a plain function; AsyncPool takes coroutine functions", is_plain_callable)
_COROUTINE = Opaque(
    "a coroutine function; Pool takes plain functions",
    lambda given: (
        inspect.iscoroutinefunction(given)
        or inspect.iscoroutinefunction(getattr(given, "func", None))
        or inspect.iscoroutinefunction(getattr(type(given), "__call__", None))  # noqa: B004 - the method itself is wanted
    ),
)
_EITHER = Opaque("a function", callable)
_ERRORS = Opaque(
    "a tuple of classes of exceptions",
    lambda given: (
        isinstance(given, tuple) and all(isinstance(each, type) and issubclass(each, BaseException) for each in given)
    ),
)
_PACKAGES = Opaque(
    "a tuple of names of packages",
    lambda given: isinstance(given, tuple) and all(isinstance(each, str) and each for each in given),
)

BLOCKING = {
    "connect": _PLAIN,
    "close": _PLAIN,
    "abort": _PLAIN,
    "check": _PLAIN,
    "reset": _PLAIN,
    "discard_on": _ERRORS,
    "between": _PACKAGES,
}
AWAITING = {
    "connect": _COROUTINE,
    "close": _EITHER,
    "abort": _PLAIN,
    "check": _COROUTINE,
    "reset": _COROUTINE,
    "discard_on": _ERRORS,
    "between": _PACKAGES,
}


def connector_of(
    connect: Callable[[], Any] | Connector[C], rules: dict[str, Opaque], **given: Callback[C] | None
) -> Connector[C]:
    """Return the callbacks of a pool.

    Args:
        connect: The function that connects, or a connector.
        rules: The rule of each callback: `BLOCKING` or `AWAITING`.
        given: Callbacks that replace those of a connector.

    Raises:
        ConfigurationError: A callback breaks its rule.
    """
    connector: Connector[C] = connect if isinstance(connect, Connector) else Connector(connect=connect)
    replaced: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    connector = dataclasses.replace(connector, **replaced)
    problems = []
    for name, rule in rules.items():
        value = getattr(connector, name)
        if value is None and name not in {"connect", "discard_on", "between"}:
            continue
        try:
            rule.check(value)
        except Refused:
            problems.append(Problem(name, value, rule.expected))
    if problems:
        raise ConfigurationError(problems)
    return connector


def close_by_method(connection: object) -> Any:
    """Close a connection by its own method, if it has one. The result may be awaitable."""
    close = getattr(connection, "aclose", None) or getattr(connection, "close", None)
    return close() if callable(close) else None
