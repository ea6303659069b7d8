"""A retry inside the attempts of another retry: three attempts of three attempts are nine calls.

A call leaves a mark in its context before its last attempt. A second retry that comes to its own last attempt inside
finds the mark. So the outage of a dependency shows the two retries, and a call that succeeds, or fails once in three
attempts, pays nothing.

The mark outlives its call, because the end of a call that succeeded is not settled. So before the warning, which is
given once, the stacks of the threads are searched for the frame that runs the outer call.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from types import FrameType
from weakref import ref

from resilience._support.usage import is_known, warn_once
from resilience.retry._machine import Attempts

__all__ = ("mark_retried",)

_ENGINE = "resilience._engine."
_retried: ContextVar[tuple[str, int | None, ref[Attempts]] | None] = ContextVar("resilience_retried", default=None)
"""The name and the most attempts of the retry whose call runs in this context, and the record of that call."""


def mark_retried(name: str, most: int | None, attempts: Attempts) -> None:
    """Mark a call before its last attempt; warn once if it is inside an attempt of another retry."""
    found = _retried.get()
    if found is not None:
        outer_name, outer_most, reference = found
        outer, key = reference(), ("nested retry", outer_name, name)
        if outer is not None and outer is not attempts and not outer.is_over and not is_known(key) and _runs(outer):
            warn_once(key, _text(name, most, outer_name, outer_most))
    _retried.set((name, most, ref(attempts)))


def _runs(attempts: Attempts) -> bool:
    """Return whether a frame of the engine runs the call with this record, in any thread."""
    return any(_is_on_stack(frame, attempts) for frame in sys._current_frames().values())  # noqa: SLF001 - it is documented


def _is_on_stack(frame: FrameType | None, attempts: Attempts) -> bool:
    while frame is not None:
        is_engine = str(frame.f_globals.get("__name__")).startswith(_ENGINE)
        if is_engine and any(value is attempts for value in frame.f_locals.values()):
            return True
        frame = frame.f_back
    return False


def _text(inner: str, inner_most: int | None, outer: str, outer_most: int | None) -> str:
    total = "" if None in {inner_most, outer_most} else f": up to {(inner_most or 0) * (outer_most or 0)} calls for one"
    return (
        f"the retry {inner!r} runs inside the attempts of the retry {outer!r}{total}. Retry at one level: take one of "
        f"the two out of its pipeline, or give it attempts=1. A client of this library has a retry of its own; "
        f"a pipeline without a Retry, as in pipeline=Pipeline(...), takes its place"
    )
