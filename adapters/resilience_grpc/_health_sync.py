"""The health service of a server on threads. It answers while all of them are busy, and watching takes none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc

from resilience.health import Report
from resilience_grpc._health import Answer, Services, answer_of

__all__ = ("ThreadedHealth",)

_AT_ONCE = 2


class _Watch:
    """Somebody who wants to know, and what they were told last. Only the watching thread speaks to them."""

    def __init__(self, name: str, send: Callable[[Answer | None], None]) -> None:
        self.name = name
        self._send = send
        self._told: Any = None

    def tell(self, answer: Answer) -> None:
        if answer.status != self._told:
            self._told = answer.status
            self._send(answer)

    def finish(self) -> None:
        self.tell(Answer(status=Answer.NOT_SERVING))
        self.end()

    def end(self) -> None:
        self._send(None)


class _Threads(ThreadPoolExecutor):
    """A pool that raises nothing when the system starts no thread: grpcio would lose the thread it serves with."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:  # the call stays in the queue of the threads that exist
            left: Future[Any] = Future()
            left.cancel()
            return left


class ThreadedHealth:
    """Checks are asked in threads of their own: grpcio takes them from the function it calls."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._watches: set[_Watch] = set()
        self._wake = threading.Event()
        self._is_over = False
        self._teller: threading.Thread | None = None
        self._unsubscribe = services.on_change(self._wake.set)
        self.check, self.watch = self._functions()

    def _functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        def check(request: Any, servicer: Any) -> Answer:
            return self._check(request.service, servicer)

        def watch(request: Any, servicer: Any, send: Callable[[Answer | None], None]) -> None:
            self._watch(_Watch(request.service, send), servicer)

        asking: Any = check
        asking.experimental_thread_pool = _Threads(_AT_ONCE, "grpc-health")
        watching: Any = watch
        watching.experimental_non_blocking = True
        watching.experimental_thread_pool = _Threads(1, "grpc-health-watch")
        return check, watch

    def _check(self, name: str, servicer: Any) -> Answer:
        report = self._report(name)
        if report is None:
            servicer.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return answer_of(report)

    def _report(self, name: str) -> Report | None:
        group = self._services.group_of(name)
        return None if group is None else self._services.health.report(group)

    def _watch(self, watch: _Watch, servicer: Any) -> None:
        """Note a watcher. Runs in one thread only, so that no two start the one that tells."""
        if self._is_over:
            watch.finish()
            return
        self._watches.add(watch)
        if not servicer.add_callback(lambda: self._watches.discard(watch)):
            self._watches.discard(watch)
        if self._teller is None and not self._begin_telling():
            self._watches.discard(watch)
            watch.end()
        self._wake.set()

    def _begin_telling(self) -> bool:
        teller = threading.Thread(target=self._tell, name="grpc-health-teller", daemon=True)
        try:
            teller.start()
        except RuntimeError:  # the system starts no more threads: the watcher comes again
            return False
        self._teller = teller
        return True

    def _tell(self) -> None:
        while not self._is_over:
            self._wake.clear()
            for watch in tuple(self._watches):
                watch.tell(answer_of(self._report(watch.name)))
            self._wake.wait(self._services.interval if self._watches else None)
        for watch in tuple(self._watches):
            watch.finish()

    def end(self) -> None:
        """Tell watchers that nothing is served any more, and end their streams."""
        self._is_over = True
        self._unsubscribe()
        self._wake.set()
