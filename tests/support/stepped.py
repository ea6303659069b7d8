"""Cancellation at a given await."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


class Stepped:
    """A coroutine that has its task cancelled at its await number `at`."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int, *, is_late: bool) -> None:
        self._coroutine = coroutine
        self._at = at
        self._is_late = is_late
        self.awaits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        thrown: BaseException | None = None
        while True:
            try:
                waited_for = self._coroutine.send(None) if thrown is None else self._coroutine.throw(thrown)
            except StopIteration as ended:
                return ended.value
            self.awaits += 1
            if self.awaits == self._at:
                self._cancel(waited_for)
            thrown = None
            try:
                yield waited_for
            except BaseException as error:  # noqa: BLE001 - it belongs to the coroutine
                thrown = error

    def _cancel(self, waited_for: asyncio.Future[Any] | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._is_late and waited_for is not None:  # when it comes, but before the task hears of it
            waited_for.add_done_callback(lambda _: task.cancel())
        else:
            task.cancel()
