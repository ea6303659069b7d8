"""A listener that a third party could publish: it sends changes of state to a webhook.

To publish one, put this entry point into your `pyproject.toml`::

    [project.entry-points."resilience.listeners"]
    webhook = "webhook_listener:WebhookListener"

Its users install your package, and name it in the configuration::

    RESILIENCE_EVENTS__LISTENERS=webhook
    WEBHOOK_URL=https://chat.example/hooks/4711

A call never waits for the webhook. The thread of the caller puts the event into a queue; a thread of the listener sends
it. If the webhook hangs and the queue is full, the listener drops the event and counts it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import queue
import threading
import time
import urllib.parse
import urllib.request
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilience import Event, Resilience

__all__ = ("WebhookListener",)

KINDS = frozenset(
    {
        "breaker.opened",
        "breaker.closed",
        "breaker.mode_changed",
        "ratelimit.outage",
        "ratelimit.recovered",
        "health.changed",
        "lifecycle.draining",
    }
)
"""The events that are worth a message. Refusals are not: there is one for each call."""

_log = logging.getLogger("webhook_listener")


class WebhookListener:
    """Sends changes of state to a webhook, as JSON in a POST request.

    Args:
        toolkit: The toolkit whose events it gets. The messages have the name of its service.
        url: Default: the variable `WEBHOOK_URL`.
        timeout: Seconds for each step of a request, above 0.
        max_waiting: Messages that wait for the webhook; one more is dropped. At least 1.
        close_timeout: Seconds that `close` waits for the messages in the queue.

    Raises:
        ValueError: The URL is missing, or is not one of HTTP. The toolkit makes a `PluginError` of it, at the start.
    """

    def __init__(
        self,
        toolkit: Resilience,
        url: str | None = None,
        *,
        timeout: float = 2.0,
        max_waiting: int = 100,
        close_timeout: float = 1.0,
    ) -> None:
        self._url = os.environ.get("WEBHOOK_URL", "") if url is None else url
        if urllib.parse.urlsplit(self._url).scheme not in {"http", "https"}:
            raise ValueError("WEBHOOK_URL must be the http:// or https:// URL of the webhook")
        self._service = toolkit.config.service.name
        self._timeout, self._max_waiting, self._close_timeout = timeout, max_waiting, close_timeout
        self._is_closed = False
        self._begin()
        # A forked child has neither the thread nor the right to send the messages of its parent again.
        living = weakref.ref(self)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=lambda: _begin_again(living()))

    def _begin(self) -> None:
        # Not `queue.Queue`: a finalizer may send an event in the midst of a `put` of the same thread.
        self._waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._drops, self._dropped = itertools.count(1), 0  # `next` is atomic
        self.sent = self.failed = 0

    @property
    def dropped(self) -> int:
        """Messages that were dropped: the queue was full, the listener was closed, or no thread could be started."""
        return self._dropped

    def __call__(self, event: Event) -> None:
        """Take an event. Called in the thread of the call that has caused it, so it neither waits nor raises."""
        if event.kind not in KINDS:
            return
        if self._is_closed or self._waiting.qsize() >= self._max_waiting or not self._has_thread():
            self._dropped = next(self._drops)
            return
        self._waiting.put(self._message(event))

    def _message(self, event: Event) -> dict[str, Any]:
        facts = {name: _plain(value) for name, value in event.facts.items()}
        return {
            "service": self._service,
            "kind": event.kind,
            "policy": event.policy,
            "severity": event.severity,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "facts": facts,
            "dropped": self._dropped,
        }

    def _has_thread(self) -> bool:
        """Return whether there is a thread that sends; start it with the first message."""
        if self._thread is None and self._starting.acquire(blocking=False):
            # Another thread that comes here meanwhile puts its message into the queue of the thread to be.
            thread = threading.Thread(target=self._send_all, args=(self._waiting,), name="webhook", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left, or the process ends
                self._starting.release()
                return False
            self._thread = thread
        return True

    def _send_all(self, waiting: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        while (message := waiting.get()) is not None:
            try:
                self._send(message)
                self.sent += 1
            except Exception as error:  # noqa: BLE001 - the webhook may do anything; the next message may arrive
                self.failed += 1
                if self.failed.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ...: a line for each would flood the log
                    _log.warning("webhook: %d messages not sent, last %s", self.failed, type(error).__name__)

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310 - its scheme is checked
        with urllib.request.urlopen(request, timeout=self._timeout):  # noqa: S310 - as above
            pass

    def close(self) -> None:
        """Send the messages in the queue, for at most `close_timeout` seconds. The toolkit calls this at its end."""
        if self._is_closed:
            return
        self._is_closed = True
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join(self._close_timeout)
            if self._thread.is_alive():  # the webhook hangs: what is left is lost
                with contextlib.suppress(queue.Empty):
                    while self._waiting.get_nowait() is not None:
                        self._dropped = next(self._drops)
                self._waiting.put(None)


def _begin_again(listener: WebhookListener | None) -> None:
    if listener is not None:
        listener._begin()  # noqa: SLF001 - of this module


def _plain(value: object) -> object:
    """Return a fact as JSON can hold it. Of an error only the type: its text may hold secrets."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__
