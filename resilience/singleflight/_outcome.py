"""The outcome of a call, for callers that did not make it."""

from __future__ import annotations

import copy
from enum import Enum
from typing import TypeVar

from resilience._support.sharing import is_shareable
from resilience.policy import Substitute

__all__ = ("FollowerSignal", "SharedOutcome", "outcome_of")

E = TypeVar("E", bound=BaseException)


class FollowerSignal(Enum):
    """The answer for a follower without an outcome."""

    LOOK_AGAIN = "the call was given up: look for another one, or make it"
    LEAD = "the leader was interrupted: make the call"
    TOO_SHORT = "the call had less time than you have: make another, with all the time there is"
    CALL_ALONE = "the result serves one caller only, or would never come: make a call of your own"


class SharedOutcome:
    """A result, or an error that several callers raise.

    Each caller raises a copy, with the traceback up to here: one error object raised by all of them would collect the
    frames and the notes of all. An error that cannot be copied faithfully is shared, and its traceback is cut back each
    time.
    """

    __slots__ = ("_error", "_traceback", "_value")

    def __init__(self, value: object = None, error: Exception | Substitute | None = None) -> None:
        self._value = value
        # Already a copy: the leader is about to raise the error itself, and may add to it.
        self._error = None if error is None else _copy_of(error)
        self._traceback = None if error is None else error.__traceback__

    def deliver(self) -> object:
        """Return the result, or raise the error."""
        if self._error is None:
            return self._value
        error = _copy_of(self._error)
        try:
            raise error.with_traceback(self._traceback)
        finally:
            del error  # its traceback refers to this frame: no cycle through it


def outcome_of(result: object, error: Exception | Substitute | None = None) -> SharedOutcome | FollowerSignal:
    """Return the answer for the followers of a call that ended with `error`, or else with `result`."""
    return SharedOutcome(result, error) if is_shareable(result) else FollowerSignal.CALL_ALONE


def _copy_of(error: E) -> E:
    """Return a copy of `error` with the same history, or `error` itself if a copy would not be faithful."""
    if isinstance(error, Substitute):
        inner = None if error.error is None else _copy_of(error.error)
        return _with_history(type(error)(error.value, error=inner, result=error.result), error)
    if _has_slots_that_a_copy_loses(type(error)):
        return error
    try:
        twin = _with_history(copy.copy(error), error)
    except Exception:  # noqa: BLE001 - its constructor wants other arguments than it keeps (many do), or it is frozen
        return error
    is_faithful = type(twin) is type(error) and len(twin.args) == len(error.args)
    if not is_faithful or any(ours is not theirs for ours, theirs in zip(twin.args, error.args, strict=True)):
        return error
    return twin


def _has_slots_that_a_copy_loses(kind: type[BaseException]) -> bool:
    """Return whether the class has slots and leaves copying to `BaseException`, which copies no slots."""
    is_left_to_default = kind.__reduce__ is BaseException.__reduce__
    return is_left_to_default and any(vars(base).get("__slots__") for base in kind.__mro__)


def _with_history(twin: E, error: BaseException) -> E:
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    twin.__traceback__ = error.__traceback__
    if notes := vars(error).get("__notes__"):  # not by attribute: some errors raise KeyError for one they do not have
        twin.__notes__ = list(notes)
    return twin
