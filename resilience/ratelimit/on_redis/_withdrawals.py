"""Payments that are given back in the background: their callers were cancelled or interrupted, and must not wait.

One thread of the process sends them, many in one round trip, and ends when there are no more. It serves both colours: a
task of the event loop could be left behind by a loop that closes, and a loop closes when it has cancelled its tasks.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from resilience._support.fork import renew_after_fork
from resilience.redis import LuaScript, OutageGuard, RedisConnection
from resilience.redis._errors import raised

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from resilience.redis._exchange import Reply
    from resilience.redis._script import ScriptCall

__all__ = ("Withdrawals",)

MAX_WAITING = 10_000
"""The largest number of payments in line. One more stands: the limit errs on the strict side."""
_MOST_AT_ONCE = 128


class Withdrawals:
    """Sends the script calls that give payments back.

    Args:
        connection: Gives the connections.
        script: The script `withdraw.lua`.
        outage: Records whether Redis answered. During an outage, payments stand.
    """

    def __init__(self, connection: RedisConnection, script: LuaScript, outage: OutageGuard) -> None:
        self._connection = connection
        self.script = script
        self._outage = outage
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the payments in line: the parent gives them back."""
        self._waiting: deque[ScriptCall] = deque()
        self._is_running = False
        self._lock = threading.RLock()  # re-entrant, for finalizers that make calls

    def run(self, call: ScriptCall) -> None:
        """Give one payment back, blocking this thread for one round trip."""
        with self._outage.attempt() as attempt:
            if attempt.may_try:
                self.script.run(self._connection.pool, *call)

    def add(self, call: ScriptCall) -> None:
        """Give one payment back soon. Never blocks."""
        if len(self._waiting) >= MAX_WAITING or sys.is_finalizing():
            return
        with self._lock:
            self._waiting.append(call)
            if self._is_running:
                return
            self._is_running = True
        try:
            threading.Thread(target=self._send_all, name="resilience-ratelimit-withdraw", daemon=True).start()
        except RuntimeError:  # the system starts no more threads: the payments wait for the next one
            self._ended()
        except BaseException:
            self._ended()
            raise

    def _send_all(self) -> None:
        try:
            while calls := self._next():
                with self._outage.attempt() as attempt:
                    if attempt.may_try:
                        patience = self._connection.options.connect_timeout  # no caller waits behind this thread
                        for reply in self._connection.pool.run(self._asking(calls), patience):
                            if not self._connection.is_redirect(reply):  # of a moved slot: the payment stands
                                raised(reply)
        except BaseException:
            self._ended()
            raise

    def _ended(self) -> None:
        with self._lock:
            self._is_running = False

    def _asking(self, calls: list[ScriptCall]) -> Callable[[AbstractConnection], list[Reply]]:
        return lambda connection: self.script.call(connection, calls)

    def _next(self) -> list[ScriptCall]:
        """Return the next payments; none ends the thread."""
        with self._lock:
            calls = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_AT_ONCE))]
            self._is_running = bool(calls)
        return calls
