"""The blocking shell: each attempt is made by a thread of ours, in a copy of the caller's context."""

from __future__ import annotations

import contextvars
import functools
import queue
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from resilience._executor import Work
from resilience.errors import RunningWork

if TYPE_CHECKING:
    from resilience.hedge._machine import Race
    from resilience.hedge._policy import Hedge

__all__ = ("around",)

P = ParamSpec("P")
R = TypeVar("R")


def around(hedge: Hedge, inner: Callable[P, R]) -> Callable[P, R]:
    """Return `inner` hedged."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        race = hedge.begin()
        attempt = functools.partial(inner, *args, **kwargs)
        try:
            if race.is_single or not _Threads(hedge, race, attempt).run():
                return _alone(hedge, race, attempt)
        finally:
            hedge.leave(race)
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


class _Threads:
    """The attempts of one call. What an attempt came to arrives in a queue; the caller's thread does the rest."""

    __slots__ = ("_begun", "_call", "_ended", "_hedge", "_race")

    def __init__(self, hedge: Hedge, race: Race, call: Callable[[], Any]) -> None:
        self._hedge, self._race, self._call = hedge, race, call
        self._ended: queue.SimpleQueue[tuple[int, Work]] = queue.SimpleQueue()
        self._begun: list[Work] = []

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
        is_hedge = race.started > 0
        if is_hedge and not hedge.allows(race):
            return False
        number = race.started + 1
        work = Work(self._call, contextvars.copy_context())
        work.add_done_callback(lambda: self._ended.put((number, work)))
        if is_hedge:
            work.add_done_callback(hedge.release)
        if self._submit(work, is_hedge=is_hedge):
            self._begun.append(work)
            hedge.started(race)
            return True
        hedge.suppress(race, "threads")
        return False

    def _submit(self, work: Work, *, is_hedge: bool) -> bool:
        is_taken = False
        try:
            is_taken = self._hedge.executor.submit(work) is None
        finally:
            if is_hedge and not is_taken:
                self._hedge.release()
        return is_taken

    def _wait(self) -> None:
        """Wait until an attempt has ended or the next one is due."""
        seconds = self._race.wait(self._hedge.clock())
        try:
            number, work = self._ended.get(timeout=seconds)
        except queue.Empty:
            self._race.elapse()
            return
        except BaseException as interrupt:
            RunningWork(self._when_all_ended).note(interrupt)
            raise
        error, work.error = work.error, None  # the thread may hold on to its work a moment longer
        self._hedge.ended(self._race, number, work.result, error)

    def _when_all_ended(self, callback: Callable[[], None]) -> None:
        """Call `callback` once no attempt runs any more."""
        others: list[None] = [None] * (len(self._begun) - 1)  # taken one by one: the last to end finds none

        def ended() -> None:
            try:
                others.pop()
            except IndexError:
                callback()

        for work in self._begun:
            work.add_done_callback(ended)
