import threading
import time

import pytest

from resilience import DeadlineExceededError, Pipeline, Timeout


def test_threads_still_running_are_counted() -> None:
    """A snapshot tells the threads at work, those of them that are late, and how many calls took too long."""
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
