"""Work in a thread that goes on when its caller does not wait any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ("RunningWork", "running_together")


class _Background(Protocol):
    """Something that ends, and says so."""

    def add_done_callback(self, callback: Callable[[], None], /) -> object:
        """Call `callback` at the end; at once if it has ended."""


class RunningWork:
    """Synchronous work that outlived its deadline: a thread cannot be stopped, only waited for."""

    __slots__ = ("_when_done",)

    def __init__(self, when_done: Callable[[Callable[[], None]], None]) -> None:
        self._when_done = when_done

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once the work has really ended; at once if it already has."""
        self._when_done(callback)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("work that runs in a thread of this process cannot be pickled")

    def __deepcopy__(self, _memo: dict[int, Any]) -> RunningWork:
        return self

    def note(self, interrupt: BaseException) -> None:
        """Have an interrupt or a cancellation, which is not ours to replace, say that the work goes on."""
        interrupt.running = self  # type: ignore[attr-defined]  # read by `running_behind`


def running_together(works: Sequence[_Background]) -> RunningWork:
    """Return what runs until all of `works` have ended."""

    def when_all_done(callback: Callable[[], None]) -> None:
        # One for each work but the last to end, and one for the loop below: an interrupt in the midst of it leaves a
        # `callback` behind that is never called.
        others: list[None] = [None] * len(works)

        def ended() -> None:
            try:
                del others[-1]  # an operator: CPython looks for no signal behind it
            except IndexError:
                callback()

        for work in works:
            work.add_done_callback(ended)
        ended()

    return RunningWork(when_all_done)
