import gc
import os
import threading

import pytest

from resilience.events import Emitter, Event
from resilience.testing import RecordingListener


def test_nothing_is_built_when_nobody_listens() -> None:
    """An event nobody hears is not even numbered (L6)."""
    emitter, listener = Emitter(), RecordingListener()
    emitter.emit("a.b", "p", 0.0)
    assert not emitter
    emitter.subscribe(listener)
    emitter.emit("a.b", "p", 1.0, "warning", reason="x")
    event = listener.events[0]
    assert (event.sequence, event.at, event.severity, event.facts) == (1, 1.0, "warning", {"reason": "x"})
    assert repr(event) == "<Event a.b policy='p' #1, reason='x'>"


def test_listener_that_reenters_sees_its_event_later_and_in_order() -> None:
    """An event emitted by a listener is delivered after the present one, to everybody (L6)."""
    emitter, seen = Emitter(), RecordingListener()

    def reenter(event: Event) -> None:
        if event.kind == "first":
            emitter.emit("second", "p", 0.0)

    emitter.subscribe(reenter)
    emitter.subscribe(seen)
    emitter.emit("first", "p", 0.0)
    assert seen.kinds == ["first", "second"]


def test_order_is_kept_across_threads() -> None:
    """However many threads emit, every listener hears every event once, in the order of its number (L6)."""
    emitter, seen = Emitter(), RecordingListener()
    emitter.subscribe(seen)

    def emit() -> None:
        for _ in range(300):
            emitter.emit("x", "p", 0.0)

    threads = [threading.Thread(target=emit) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.sequence for event in seen.events] == list(range(1, 1801))


def test_unsubscribing_twice_is_harmless() -> None:
    """The function that ends a subscription may be called again; others keep hearing."""
    emitter, kept, gone = Emitter(), RecordingListener(), RecordingListener()
    emitter.subscribe(kept)
    end = emitter.subscribe(gone)
    end()
    end()
    emitter.emit("x", "p", 0.0)
    assert (len(kept.events), len(gone.events)) == (1, 0)


def test_listener_that_raises_is_logged_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    """One listener's failure is logged and does not keep the others from hearing (L6)."""
    emitter, seen = Emitter(), RecordingListener()

    def broken(_: Event) -> None:
        raise ValueError("listener bug")

    emitter.subscribe(broken)
    emitter.subscribe(seen)
    emitter.emit("x", "p", 0.0)
    assert seen.kinds == ["x"]
    assert "listener bug" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_child_forked_during_delivery_can_emit() -> None:
    """A child forked while the parent delivers starts with fresh locks and an empty queue."""
    emitter, seen = Emitter(), RecordingListener()
    codes: list[int] = []

    def fork(event: Event) -> None:
        if event.kind != "fork":
            return
        pid = os.fork()
        if pid == 0:
            gc.disable()
            emitter.listeners = (seen,)
            emitter.emit("child", "p", 0.0)
            os._exit(0 if seen.kinds == ["child"] else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    emitter.subscribe(fork)
    emitter.emit("fork", "p", 0.0)
    assert codes == [0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_listener_that_forks_returns_in_both_processes() -> None:
    """A listener may fork and return: delivery ends well in the child too."""
    emitter, parent = Emitter(), os.getpid()
    children: list[int] = []
    emitter.subscribe(lambda _: children.append(os.fork()))
    try:
        emitter.emit("fork", "p", 0.0)
        failed = False
    except RuntimeError:
        failed = True
    if os.getpid() != parent:
        gc.disable()
        os._exit(failed)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
