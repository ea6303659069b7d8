"""Keyed policies that run calls in threads."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilience import BulkheadFullError, Hedge, Keyed, Pipeline, ThreadPoolBulkhead, Timeout, idempotent

MADE: dict[str, Callable[[str], Any]] = {
    "timeout": lambda _key: Timeout("30s"),
    "thread pool": lambda _key: ThreadPoolBulkhead(2),
    "hedge": lambda _key: Hedge("30s"),
}


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "resilience"}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_keys_leave_no_threads(make: Callable[[str], Any]) -> None:
    """As many threads are begun as calls are under way at once, however many keys come and go."""
    keyed = Keyed(make, key=lambda key: key, max_keys=10)
    pipeline, used = Pipeline("p", keyed), set[int]()

    @idempotent
    def note(_key: int) -> None:
        used.add(threading.get_ident())

    before = threads()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: pipeline.call(note, key), range(2000)))
    assert len(threads() - before) <= 5
    assert len(used) <= len(before) + 5
    assert len(keyed) <= 10


def test_a_key_keeps_its_own_bound() -> None:
    """The calls of one key take no more threads than the policy of that key allows, and none from other keys."""
    keyed = Keyed(lambda _key: Timeout("30s", max_threads=1), key=lambda key, _call: key)
    pipeline, release = Pipeline("p", keyed), threading.Event()

    def call(_key: str, action: Callable[[], Any]) -> Any:
        return action()

    entered = threading.Event()

    def hold() -> None:
        entered.set()
        release.wait(10)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(pipeline.call, call, "a", hold)
        assert entered.wait(10)
        with pytest.raises(BulkheadFullError):
            pipeline.call(call, "a", int)
        assert pipeline.call(call, "b", int) == 0
        release.set()
        holding.result(10)
    assert pipeline.call(call, "a", int) == 0
