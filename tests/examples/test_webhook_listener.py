"""The example of a listener sends changes of state to a webhook, and costs no call anything."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributions
import pytest
from example_modules import EXAMPLES, load

from resilience import PluginError, Resilience
from resilience.events import Event

Webhook: Any = load("webhook_listener").WebhookListener
Wait = Callable[[Callable[[], object]], None]


class Hook:
    """A webhook on loopback that keeps its messages."""

    def __init__(self, status: int = 200) -> None:
        self.messages: list[dict[str, Any]] = []
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.messages.append(json.loads(body, parse_constant=pytest.fail))
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
                """Print nothing."""

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Hook:  # noqa: PYI034 - never subclassed
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


def wait_for(holds: Callable[[], object]) -> None:
    patience = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < patience
        time.sleep(0.002)


def fail() -> None:
    raise ConnectionError("password=s3cret")


def event(kind: str = "breaker.opened", **facts: Any) -> Event:
    return Event(kind, "bank.breaker", "error", 1.0, 1, facts)


@pytest.fixture
def toolkit() -> Resilience:
    return Resilience.from_env(
        {"RESILIENCE_SERVICE__NAME": "shop", "RESILIENCE_PIPELINE__BANK__BREAKER__FAIL_MAX": "1"}
    )


def test_an_outage_reaches_the_webhook(toolkit: Resilience) -> None:
    """The opening of a circuit is one message with its facts; refusals are none; no text of an error leaves."""
    with Hook() as hook:
        listener = Webhook(toolkit, hook.url)
        toolkit.subscribe(listener)
        for _ in range(3):
            with contextlib.suppress(Exception):
                toolkit.pipeline("bank").call(fail)
        listener(event(error=ConnectionError("s3cret"), retry_after=float("inf")))
        listener.close()
        opened, given = hook.messages
    assert (opened["kind"], opened["policy"], opened["service"]) == ("breaker.opened", "bank.breaker", "shop")
    assert opened["facts"]["last_error"] == "ConnectionError"
    assert given["facts"] == {"error": "ConnectionError", "retry_after": "inf"}
    assert "s3cret" not in str(hook.messages)
    assert (listener.sent, listener.failed, listener.dropped) == (2, 0, 0)


@pytest.mark.parametrize("status", [404, 500])
def test_an_answer_with_an_error_counts(toolkit: Resilience, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """A webhook that answers with an error costs its message, and the log few lines."""
    with Hook(status) as hook:
        listener = Webhook(toolkit, hook.url)
        for _ in range(9):
            listener(event())
        listener.close()
        assert (listener.sent, listener.failed) == (0, 9)
    lines = [record.getMessage() for record in caplog.records if record.name == "webhook_listener"]
    assert lines == [f"webhook: {number} messages not sent, last HTTPError" for number in (1, 2, 4, 8)]


def test_a_webhook_that_refuses_costs_the_message_alone(toolkit: Resilience) -> None:
    """A port that nothing listens on fails each message; the next one is tried again."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listener = Webhook(toolkit, f"http://127.0.0.1:{port}/")
    listener(event())
    listener(event())
    wait_for(lambda: listener.failed == 2)
    listener.close()
    assert listener.dropped == 0


def test_a_webhook_that_hangs_drops_and_counts(toolkit: Resilience) -> None:
    """While the webhook does not answer, calls wait for nothing, the queue is bounded, and the others are counted."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        listener = Webhook(toolkit, f"http://127.0.0.1:{silent.getsockname()[1]}/", max_waiting=5, close_timeout=0.05)
        listener(event())
        wait_for(lambda: listener._waiting.qsize() == 0)  # the thread has it, and hangs
        threads, began = threading.active_count(), time.monotonic()
        for _ in range(1000):
            listener(event())
        assert time.monotonic() - began < 1.5
        assert listener.dropped == 995
        assert threading.active_count() < threads + 20  # those of other tests may come and go
        listener.close()
        assert listener.dropped == 1000
        listener(event())
        listener.close()
        assert listener.dropped == 1001


def test_one_thread_starts_with_the_first_message(toolkit: Resilience) -> None:
    """No thread starts before there is something to send; a hundred threads start one, a daemon."""
    with Hook() as hook:
        before = threading.enumerate()  # that of another test may still hang
        listener = Webhook(toolkit, hook.url)
        listener(event("breaker.rejected"))
        assert listener._thread is None
        threads = [threading.Thread(target=listener, args=(event(),)) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        started = [thread for thread in threading.enumerate() if thread.name == "webhook" and thread not in before]
        assert [thread.daemon for thread in started] == [True]
        listener.close()
        assert len(hook.messages) == 50


def test_no_thread_is_a_drop(toolkit: Resilience, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system out of threads costs the message, and the caller nothing."""
    listener = Webhook(toolkit, "http://127.0.0.1:1/")

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    listener(event())
    assert listener.dropped == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_sends_its_own(toolkit: Resilience) -> None:
    """A child has a thread of its own, and does not repeat the messages of its parent."""
    with Hook() as hook:
        listener = Webhook(toolkit, hook.url)
        listener(event(of="parent"))
        wait_for(lambda: listener.sent == 1)
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                listener(event(of="child"))
                listener.close()
            os._exit(0 if listener.sent == 1 else 3)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        listener.close()
        assert [message["facts"]["of"] for message in hook.messages] == ["parent", "child"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the example as a distribution."""
    with distributions.on_path(tmp_path, monkeypatch) as install:
        install("acme", "resilience.listeners", "webhook = webhook_listener:WebhookListener", "")
        (tmp_path / "webhook_listener.py").write_text((EXAMPLES / "webhook_listener.py").read_text())
        yield
    sys.modules.pop("webhook_listener", None)


@pytest.mark.usefixtures("installed")
def test_by_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting loads it, the lifecycle closes it, and what is in the queue is sent before."""
    settings = {"RESILIENCE_EVENTS__LISTENERS": "webhook", "RESILIENCE_PIPELINE__BANK__BREAKER__FAIL_MAX": "1"}
    monkeypatch.delenv("WEBHOOK_URL", raising=False)
    with pytest.raises(PluginError, match=r"'webhook' .* of acme cannot be made: ValueError: WEBHOOK_URL must be"):
        Resilience.from_env(settings)
    with Hook() as hook:
        monkeypatch.setenv("WEBHOOK_URL", hook.url)
        toolkit = Resilience.from_env(settings)
        with contextlib.suppress(ConnectionError):
            toolkit.pipeline("bank").call(fail)
        toolkit.lifecycle.stop()
        assert [message["kind"] for message in hook.messages] == ["breaker.opened", "lifecycle.draining"]
