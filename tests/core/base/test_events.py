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


def test_equal_subscriptions_end_one_by_one() -> None:
    """Who subscribes twice hears twice, and still once when one of the two has ended, however often it is ended."""
    emitter, heard = Emitter(), RecordingListener()
    ends = [emitter.subscribe(heard.events.append) for _ in range(2)]
    ends[0]()
    ends[0]()
    emitter.emit("x", "p", 0.0)
    assert len(heard.events) == 1
    ends[1]()
    assert not emitter


def test_events_wait_for_a_slow_listener_in_bounded_number(caplog: pytest.LogCaptureFixture) -> None:
    """While a listener hangs the newest 1,000 events wait; the older ones are dropped, counted and logged once."""
    emitter, seen = Emitter(), RecordingListener()
    hangs, release = threading.Event(), threading.Event()

    def hang(event: Event) -> None:
        if event.sequence == 1:
            hangs.set()
            release.wait(5)

    emitter.subscribe(hang)
    emitter.subscribe(seen)
    thread = threading.Thread(target=emitter.emit, args=("x", "p", 0.0))
    thread.start()
    assert hangs.wait(5)
    for _ in range(1100):
        emitter.emit("x", "p", 0.0)
    release.set()
    thread.join()
    emitter.emit("x", "p", 0.0)
    assert [event.sequence for event in seen.events] == [1, *range(102, 1103)]
    assert emitter.dropped == 100
    assert caplog.text.count("listeners of 'p' are too slow") == 1


def test_listener_that_answers_every_event_with_another_holds_nobody_up_for_ever() -> None:
    """A caller delivers a bounded number of events, even where each one delivered brings another (L6)."""
    emitter, seen = Emitter(), RecordingListener()
    emitter.subscribe(seen)
    emitter.subscribe(lambda event: emitter.emit("again", "p", event.at))
    emitter.emit("first", "p", 0.0)
    assert len(seen.events) == 1000
    emitter.emit("next", "p", 0.0)
    assert [event.sequence for event in seen.events] == list(range(1, 2001))


def test_finalizer_may_emit_in_the_midst_of_a_record() -> None:
    """An event emitted by code that the garbage collector runs while another is recorded deadlocks nobody."""
    emitter, seen = Emitter(), RecordingListener()
    emitter.subscribe(seen)

    class Loose:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            emitter.emit("finalized", "p", 0.0)

    threshold = gc.get_threshold()
    try:
        for step in range(1, 40):
            gc.set_threshold(step)
            Loose()
            for _ in range(20):
                emitter.emit("x", "p", 0.0)
    finally:
        gc.set_threshold(*threshold)
    assert [event.sequence for event in seen.events] == list(range(1, len(seen.events) + 1))


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
