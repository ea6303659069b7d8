"""Errors by which a dependency says that the request is at fault, not itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resilience import CircuitBreaker
from resilience.testing import ManualClock


class NotFoundError(Exception):
    is_answer = True


def raising(error: Exception) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def ask(breaker: CircuitBreaker, error: Exception) -> None:
    with pytest.raises(type(error)):
        breaker.call(raising(error))


def test_an_answer_is_a_success() -> None:
    """An error with `is_answer` ends a row of failures, and closes a half-open circuit."""
    clock = ManualClock()
    breaker = CircuitBreaker(2, 10, clock=clock)
    for error in (ValueError(), NotFoundError(), ValueError(), NotFoundError()):
        ask(breaker, error)
    assert breaker.current_state == "closed"
    for _ in range(2):
        ask(breaker, ValueError())
    assert breaker.current_state == "open"
    clock.advance(10)
    ask(breaker, NotFoundError())
    assert breaker.current_state == "closed"
    assert not breaker.is_system_error(NotFoundError())


def test_a_recorded_answer_is_a_failure() -> None:
    """`record` and `exclude` take precedence over the attribute `is_answer` of the error."""
    recording = CircuitBreaker(1, record=NotFoundError)
    ask(recording, NotFoundError())
    assert recording.current_state == "open"
    excluding = CircuitBreaker(2, exclude=[NotFoundError])
    for error in (ValueError(), NotFoundError(), ValueError()):
        ask(excluding, error)
    assert excluding.current_state == "open"


class AwkwardError(Exception):
    """Raises for whatever it does not have, as urllib's HTTPError does."""

    def __getattr__(self, name: str) -> None:
        raise KeyError(name)


@pytest.mark.parametrize("options", [{}, {"retry_after": lambda _error: None}])
def test_an_error_that_cannot_be_asked_is_a_failure(options: dict[str, Any]) -> None:
    """An error whose attributes raise reaches its caller as it is, and counts."""
    breaker = CircuitBreaker(1, **options)
    ask(breaker, AwkwardError())
    assert breaker.current_state == "open"


def test_only_a_plain_yes_makes_an_answer() -> None:
    """An `is_answer` that is anything but True (a method, a mock) means nothing."""
    error = ValueError()
    error.is_answer = lambda: True  # type: ignore[attr-defined]  # an unrelated attribute of this name
    breaker = CircuitBreaker(1)
    ask(breaker, error)
    assert breaker.current_state == "open"
