"""Values that stand for an outcome that is not an ordinary result: nothing returned, just started, replaced."""

from __future__ import annotations

from typing import Any, final

__all__ = ("NO_RESULT", "STARTED", "Substitute")


@final
class _Started:
    """The class of `STARTED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "STARTED"


STARTED = _Started()
"""An item that a guarded generator may yield before its first real item: it runs, and may still be started again.

A retry starts a generator again only until the generator has yielded an item. `STARTED` is not an item: code that
iterates skips it.
"""


@final
class _NoResult:
    """The class of `NO_RESULT`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NO_RESULT"


NO_RESULT = _NoResult()
"""The result that `on_success` gets if there is none: after a block, and after a generator that returned no value.

A policy that judges results accepts it, and passes it to no predicate of the user. None would not do: it is a result.
"""


class Substitute(BaseException):
    """Carries the value that the caller gets past the outer policies, which score the real outcome.

    A fallback raises it if other policies stand outside. For these the call ended with `error`, or with `result` if
    `error` is None. The chain returns `value` to the caller. It is not an `Exception`, so that no `except Exception`
    of the user catches it.

    Args:
        value: The value for the caller.
        error: The error with which the call ended; None if it returned.
        result: The result of the call, if it returned.
    """

    def __init__(self, value: Any, *, error: Exception | None = None, result: Any = None) -> None:
        super().__init__(value)
        self.value = value
        self.error = error
        self.result = result
