"""The one thread a blocking check runs in: ours, so that a stuck check takes no thread of the application's."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from resilience._support.fork import renew_after_fork

__all__ = ("Worker",)

_IDLE = 60.0


class Worker:
    """Runs work in one daemon thread, which starts when needed and ends after a minute without work.

    The thread is kept between runs, because database drivers tie connections to threads.
    """

    __slots__ = ("__weakref__", "_name", "_ready", "_thread", "_work")

    def __init__(self, name: str) -> None:
        self._name = name
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Have no thread: a forked child did not inherit it."""
        self._ready = threading.Condition(threading.Lock())
        self._work: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Have `work` run in the thread. RuntimeError where no thread can be started."""
        with self._ready:
            self._work.append(work)
            if self._thread is not None:
                self._ready.notify()
                return
            thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self._work.clear()
                raise
            self._thread = thread

    def _loop(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - a log handler's; it must not end the thread work is queued for
                facts = (type(error), error, error.__traceback__, threading.current_thread())
                threading.excepthook(threading.ExceptHookArgs(facts))
            del work  # what a check held on to is freed while idle

    def _next(self) -> Callable[[], None] | None:
        with self._ready:
            while not self._work:
                if not self._ready.wait(_IDLE) and not self._work:
                    self._thread = None
                    return None
            return self._work.popleft()
