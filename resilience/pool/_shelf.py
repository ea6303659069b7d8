"""The stack of idle entries, which threads use without a lock.

Locks. `take` and `put_back` of the machine need none, so nearly all calls of threads need none. Each step that must
not be split is one line of operators, between which CPython switches no thread, looks for no signal and collects no
garbage. A borrower that finds no idle entry joins the queue and looks once more (`match`). An entry that comes back
looks for a queue once more. All other methods run under the lock of the shell. They take idle entries off the shelf,
one by one, before they change them, and put those that stay below the entries that came back meanwhile.

Interrupts. A signal handler that raises may end any of these methods. Each method that lends or takes back reads and
computes first, and then makes its changes by operators.
"""

from __future__ import annotations

from typing import TypeVar

__all__ = ("pop_all", "pop_entry")

E = TypeVar("E")


def pop_entry(shelf: list[E]) -> E | None:
    """Take the entry off the stack that came back last; None if there is none.

    Both operators stand on one line. Tracers and debuggers run code of their own between lines, and another thread
    could take the same entry. `list.pop` would not do: CPython looks for signals when a C function has returned, and
    the entry would be lost if the handler raises.
    """
    try:
        entry = shelf[-1]; del shelf[-1]  # fmt: skip  # noqa: E702 - see above
    except IndexError:
        return None
    return entry


def pop_all(shelf: list[E]) -> list[E]:
    """Take all entries, and return them with the oldest first."""
    taken: list[E] = []
    try:
        while shelf:
            entry = shelf[-1]; del shelf[-1]; taken += (entry,)  # fmt: skip  # noqa: E702 - see `pop_entry`
    except IndexError:
        pass  # another thread took the last one
    except BaseException:  # an interrupt
        shelf[0:0] = taken[::-1]
        raise
    return taken[::-1]
