"""A breaker with a slow storage, while other callers use the breaker or the storage."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pybreaker
import pytest

from resilience import CircuitBreaker, CircuitOpenError, Pipeline

SIDE_BY_SIDE = 3


def nothing() -> None:
    pass


def fail() -> None:
    raise ValueError("down")


def reported(breaker: CircuitBreaker, act: Callable[[], Any]) -> str:
    """Return how a call ended."""
    try:
        breaker.call(act)
    except Exception as error:  # noqa: BLE001 - the outcome of the call
        return type(error).__name__
    return "done"


class Watched(pybreaker.CircuitMemoryStorage):
    """A storage in memory that calls a function at each read or write."""

    def __init__(self) -> None:
        super().__init__(pybreaker.STATE_CLOSED)
        self.on_state = self.on_counter = self.on_change = nothing

    @property
    def state(self) -> str:
        found = super().state
        self.on_state()
        return str(found)

    @state.setter
    def state(self, state: str) -> None:
        self._state = state

    @property
    def counter(self) -> int:
        found = super().counter
        self.on_counter()
        return int(found)

    def reset_success_counter(self) -> None:
        self.on_change()
        super().reset_success_counter()


@pytest.mark.parametrize("asked", ["on_state", "on_counter"])
def test_no_lock_is_held_while_a_storage_is_asked(asked: str) -> None:
    """Calls ask a slow storage side by side: each is asked for while all others are (L1)."""
    storage, together = Watched(), threading.Barrier(SIDE_BY_SIDE)
    breaker = CircuitBreaker(10, state_storage=storage)
    setattr(storage, asked, lambda: together.wait(10))
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        ends = list(pool.map(reported, [breaker] * SIDE_BY_SIDE, [fail] * SIDE_BY_SIDE))
    assert ends == ["ValueError"] * SIDE_BY_SIDE
    setattr(storage, asked, nothing)
    assert breaker.fail_counter == SIDE_BY_SIDE


def test_looking_asks_no_storage() -> None:
    """A snapshot shows the figures of the breaker itself and does not read the storage."""
    storage = Watched()
    breaker = CircuitBreaker(5, state_storage=storage)
    pipeline = Pipeline("p", breaker)
    assert reported(breaker, fail) == "ValueError"
    storage.on_state = storage.on_counter = fail
    shown = pipeline.snapshot()["policies"][0]
    assert (shown["state"], shown["failures"], shown["calls"]) == ("closed", 1, 1)


def test_a_state_read_before_our_own_change_is_not_followed() -> None:
    """A call that read "closed" before another call opened the circuit does not close it again."""
    storage = Watched()
    breaker = CircuitBreaker(1, state_storage=storage)

    def opens_meanwhile() -> None:
        storage.on_state = nothing
        assert reported(breaker, fail) == "ValueError"

    storage.on_state = opens_meanwhile
    assert reported(breaker, int) == "CircuitOpenError"
    assert breaker.current_state == "open"


def test_a_state_read_during_our_own_change_is_not_followed() -> None:
    """Nor does one that found the circuit open here, and not yet written there."""
    storage, asked = Watched(), threading.Event()
    breaker = CircuitBreaker(1, state_storage=storage)
    with ThreadPoolExecutor(1) as pool:
        other: list[Future[str]] = []

        def calls_meanwhile() -> None:
            storage.on_change, storage.on_state = nothing, asked.set
            other.append(pool.submit(reported, breaker, int))
            assert asked.wait(10)

        storage.on_change = calls_meanwhile
        assert reported(breaker, fail) == "ValueError"
        assert other[0].result(10) == "CircuitOpenError"
    assert breaker.current_state == "open"
    with pytest.raises(CircuitOpenError):
        breaker.call(int)
