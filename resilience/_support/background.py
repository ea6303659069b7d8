"""Work in a thread that goes on after its caller has stopped waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ("RunningWork", "running_together")


class _Background(Protocol):
    """Work that calls back at its end."""

    def add_done_callback(self, callback: Callable[[], None], /) -> object:
        """Call `callback` at the end of the work; at once if the work has ended."""


class RunningWork:
    """Blocking work that outlived its deadline: a thread cannot be stopped, so the work goes on.

    `DeadlineExceededError.running` is such an object. Use it to keep a resource until the work has really ended.

    Args:
        when_done: A function that takes a callback and calls it at the end of the work.
    """

    __slots__ = ("_when_done",)

    def __init__(self, when_done: Callable[[Callable[[], None]], None]) -> None:
        self._when_done = when_done

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the work has ended; at once if it has ended already."""
        self._when_done(callback)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("work that runs in a thread of this process cannot be pickled")

    def __deepcopy__(self, _memo: dict[int, Any]) -> RunningWork:
        return self

    def note(self, interrupt: BaseException) -> None:
        """Attach the work to an interrupt or a cancellation, so that policies outside know that the work goes on."""
        interrupt.running = self  # type: ignore[attr-defined]  # read by `running_behind`


def running_together(works: Sequence[_Background]) -> RunningWork:
    """Return the work that ends when all of `works` have ended."""

    def when_all_done(callback: Callable[[], None]) -> None:
        # One item for each work but the last to end, and one for the loop below: after an interrupt in the midst of the
        # loop, `callback` is never called.
        others: list[None] = [None] * len(works)

        def ended() -> None:
            try:
                del others[-1]  # an operator: no interrupt comes after it
            except IndexError:
                callback()

        for work in works:
            work.add_done_callback(ended)
        ended()

    return RunningWork(when_all_done)
