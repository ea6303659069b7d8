"""The stack of idle entries, which threads use without a lock.

Locks. `take` and `put_back` of the machine need none, so nearly all calls of threads need none. Each step that must
not be split is one line of operators, between which CPython switches no thread, looks for no signal and collects no
garbage. A borrower that finds no idle entry joins the queue and looks once more (`match`). An entry that comes back
looks for a queue once more. All other methods run under the lock of the shell. They take idle entries off the shelf
before they change them, and put those that stay below the entries that came back meanwhile.

Interrupts. A signal handler that raises may end any of these methods. Each method that lends or takes back reads and
computes first, and then makes its changes by operators. A loop stands in a function of its own, apart from `try`: from
Python 3.12 on, an interrupt at the end of a round of a `while` loop would pass by the `finally` around it.
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


_ALL = slice(None)  # made once: the garbage collector may run when an object is made


def pop_all(shelf: list[E]) -> list[E]:
    """Take all entries, and return them with the oldest first."""
    taken: list[E] = []
    taken += shelf; del shelf[_ALL]  # fmt: skip  # noqa: E702 - as in `pop_entry`
    return taken
