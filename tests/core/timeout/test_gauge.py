import gc
import threading
import time

import pytest

from resilience import DeadlineExceededError, Pipeline, Timeout


def test_threads_still_running_are_counted() -> None:
    """A snapshot counts the threads at work, the late ones among them, and the calls that took too long."""
    release = threading.Event()
    timeout = Timeout("20ms")
    with pytest.raises(DeadlineExceededError):
        Pipeline("p", timeout).call(release.wait)
    assert timeout.snapshot() == {"busy_threads": 1, "late_threads": 1, "elapsed": 1}
    release.set()
    end = time.monotonic() + 5
    while timeout.busy_threads + timeout.late_threads and time.monotonic() < end:
        time.sleep(0.001)
    assert timeout.snapshot() == {"busy_threads": 0, "late_threads": 0, "elapsed": 1}


def test_failing_callback_of_a_late_call_takes_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises at the end of late work is logged; the thread goes on to make calls (L9)."""
    release, told = threading.Event(), threading.Event()
    timeout = Timeout("20ms", max_threads=1)
    pipeline = Pipeline("p", timeout)

    def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(DeadlineExceededError) as late:
        pipeline.call(release.wait)
    assert late.value.running is not None
    late.value.running.add_done_callback(fail)
    late.value.running.add_done_callback(told.set)
    release.set()
    assert told.wait(5)
    assert "mine" in caplog.text
    assert Pipeline("q", Timeout("5s", name="other"), timeout).call(lambda: "made") == "made"


def test_errors_out_of_a_thread_leave_no_cycles() -> None:
    """A call that raised in a thread is freed when its caller lets go of the error: nothing waits for the collector."""

    def fail() -> None:
        raise ValueError

    guarded = Pipeline("p", Timeout(5))(fail)
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            with pytest.raises(ValueError):
                guarded()
        assert gc.collect() < 50
    finally:
        gc.enable()
