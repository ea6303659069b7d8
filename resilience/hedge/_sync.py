"""The blocking shell: each attempt is made by a thread of ours, in a copy of the caller's context."""

from __future__ import annotations

import contextvars
import functools
import queue
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from resilience._support.executor import Work
from resilience.errors import running_together

if TYPE_CHECKING:
    from resilience.hedge._machine import Race
    from resilience.hedge._policy import Hedge

__all__ = ("around",)

P = ParamSpec("P")
R = TypeVar("R")


def around(hedge: Hedge, inner: Callable[P, R]) -> Callable[P, R]:
    """Return `inner` hedged."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        attempt = functools.partial(inner, *args, **kwargs)
        race = hedge.begin()
        try:
            if race.is_single or not _Threads(hedge, race, attempt).run():
                result = _alone(hedge, race, attempt)
                hedge.leave(race)
                return result
            hedge.leave(race)
        except BaseException:  # also by an interrupt on the way to `leave`: only what it has not done is done again
            hedge.leave(race)
            raise
        return cast("R", hedge.handed_on(race))

    return call


def _alone(hedge: Hedge, race: Race, attempt: Callable[[], R]) -> R:
    """Make the only attempt in the caller's own thread: there is nothing to race with."""
    number = hedge.started(race)
    try:
        result = attempt()
    except BaseException as error:
        hedge.ended(race, number, None, error)
        race.forget()
        raise
    hedge.ended(race, number, result, None)
    return result


class _Attempt(Work):
    """One attempt. It owns its place in the budget."""

    __slots__ = ("is_extra", "number")

    def __init__(self, call: Callable[[], Any], number: int) -> None:
        super().__init__(call, contextvars.copy_context())
        self.number = number
        self.is_extra = False
        """Whether it is counted in the budget."""


class _Threads:
    """The attempts of one call. What an attempt came to arrives in a queue; the caller's thread does the rest."""

    __slots__ = ("_begun", "_call", "_ended", "_hedge", "_race")

    def __init__(self, hedge: Hedge, race: Race, call: Callable[[], Any]) -> None:
        self._hedge, self._race, self._call = hedge, race, call
        self._ended: queue.SimpleQueue[_Attempt] = queue.SimpleQueue()
        self._begun: list[_Attempt] = []

    def run(self) -> bool:
        """Let the attempts race to the end; return False, nothing begun, where no thread is free."""
        race = self._race
        while not race.is_over:
            if not race.is_due:
                self._wait()
            elif not self._start() and not race.started:
                return False
        return True

    def _start(self) -> bool:
        hedge, race = self._hedge, self._race
        attempt = _Attempt(self._call, race.started + 1)
        attempt.add_done_callback(functools.partial(self._end, attempt))
        try:
            if race.started:
                if not hedge.allows(race):
                    return False
                attempt.is_extra = True
            if hedge.executor.submit(attempt) is None:
                self._begun += (attempt,)
                hedge.started(race)
                return True
            attempt.cancel()
            hedge.suppress(race, "threads")
        except BaseException as interrupt:
            self._break_off(attempt, interrupt)
            raise
        return False

    def _break_off(self, attempt: _Attempt, interrupt: BaseException) -> None:
        if not attempt.cancel() and attempt not in self._begun:
            self._begun += (attempt,)
        if self._begun:
            running_together(self._begun).note(interrupt)

    def _end(self, attempt: _Attempt) -> None:
        # The caller goes on first: it may be a finalizer in the midst of a call that holds the lock of the budget.
        if not attempt.is_cancelled:
            self._ended.put(attempt)
        if attempt.is_extra:
            self._hedge.release()

    def _wait(self) -> None:
        """Wait until an attempt has ended or the next one is due."""
        seconds = self._race.wait(self._hedge.clock())
        try:
            attempt = self._ended.get(timeout=seconds)
        except queue.Empty:
            self._race.elapse()
            return
        except BaseException as interrupt:
            running_together(self._begun).note(interrupt)
            raise
        error, attempt.error = attempt.error, None  # the thread may hold on to its work a moment longer
        self._hedge.ended(self._race, attempt.number, attempt.result, error)
