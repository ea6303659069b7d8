"""What a call came to, for callers that did not make it."""

from __future__ import annotations

import copy
from enum import Enum
from typing import Any, TypeVar

from resilience._support.sharing import is_shareable
from resilience.policy import Substitute

__all__ = ("Outcome", "Told", "outcome_of")

E = TypeVar("E", bound=BaseException)


class Told(Enum):
    """What a caller that waits may be told instead of an outcome."""

    AGAIN = "the call was given up: look again"
    YOUR_TURN = "the one who made the call was interrupted: it is yours now"
    TOO_SHORT = "the call had less time than you have: make another, with all the time there is"
    ALONE = "the result serves one caller only, or would never come: make your own call"


class Outcome:
    """A result, or an error to be raised by several callers.

    Each raises a copy with the traceback so far: one object raised by all of them would grow by every one's frames and
    notes, and mix them up. An error that cannot be copied faithfully is shared, its traceback cut back each time.
    """

    __slots__ = ("_error", "_traceback", "_value")

    def __init__(self, value: Any = None, error: Exception | Substitute | None = None) -> None:
        self._value = value
        # A copy already: the one who made the call is about to raise the error itself, and may add to it.
        self._error = None if error is None else _alike(error)
        self._traceback = None if error is None else error.__traceback__

    def deliver(self) -> Any:
        """Return the result, or raise the error."""
        if self._error is None:
            return self._value
        error = _alike(self._error)
        try:
            raise error.with_traceback(self._traceback)
        finally:
            del error  # its traceback refers to this frame: no cycle through it


def outcome_of(result: Any, error: Exception | Substitute | None = None) -> Outcome | Told:
    """Return what the others are told of a call that ended like this."""
    return Outcome(result, error) if is_shareable(result) else Told.ALONE


def _alike(error: E) -> E:
    """Return a copy of `error` with the same history, or `error` itself where that would not be faithful."""
    if isinstance(error, Substitute):
        inside = None if error.error is None else _alike(error.error)
        return _with_history(type(error)(error.value, error=inside, result=error.result), error)
    if _has_more_than_a_dictionary(type(error)):
        return error
    try:
        twin = _with_history(copy.copy(error), error)
    except Exception:  # noqa: BLE001 - its constructor wants other arguments than it keeps (many do), or it is frozen
        return error
    is_faithful = type(twin) is type(error) and len(twin.args) == len(error.args)
    if not is_faithful or any(ours is not theirs for ours, theirs in zip(twin.args, error.args, strict=True)):
        return error
    return twin


def _has_more_than_a_dictionary(kind: type[BaseException]) -> bool:
    """Whether copying forgets something: slots, where the class does not say itself how it is copied."""
    is_left_to_default = kind.__reduce__ is BaseException.__reduce__
    return is_left_to_default and any(vars(base).get("__slots__") for base in kind.__mro__)


def _with_history(twin: E, error: BaseException) -> E:
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    twin.__traceback__ = error.__traceback__
    if notes := vars(error).get("__notes__"):  # not by attribute: some raise KeyError for one they do not have
        twin.__notes__ = list(notes)
    return twin
