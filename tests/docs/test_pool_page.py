"""The page on pools states the errors as they are."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from resilience import (
    CircuitBreaker,
    CircuitOpenError,
    PoolClosedError,
    PoolError,
    PoolExhaustedError,
    PoolSaturatedError,
    PoolTimeoutError,
    ResilienceError,
)

pytestmark = pytest.mark.once

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "pool.md").read_text()
ROW = re.compile(r"^\| `(\w+Error)` \| .+ \| `(\w+)` \| (counts it|does not count it)", re.MULTILINE)
ERRORS: dict[str, type[ResilienceError]] = {
    each.__name__: each
    for each in (
        CircuitOpenError,
        PoolClosedError,
        PoolError,
        PoolExhaustedError,
        PoolSaturatedError,
        PoolTimeoutError,
    )
}


def test_every_error_has_a_row() -> None:
    """The table lists the errors that a borrower can get."""
    assert {name for name, _, _ in ROW.findall(PAGE)} == set(ERRORS)


@pytest.mark.parametrize(("name", "code", "opinion"), ROW.findall(PAGE))
def test_a_row_states_the_code_and_the_opinion_of_a_breaker(name: str, code: str, opinion: str) -> None:
    """An error has the code of its row, and a breaker around the call counts it, or does not, as the row says."""
    error = ERRORS[name]
    assert error.code == code
    breaker = CircuitBreaker(fail_max=5)

    def borrow() -> None:
        raise error("no connection")

    with contextlib.suppress(error):
        breaker.call(borrow)
    assert breaker.fail_counter == (opinion == "counts it")


def test_the_fields_are_those_of_the_errors() -> None:
    """Each field that the page names is one of each error of a pool."""
    (sentence,) = re.findall(r"^Each has the fields (.+?), and its text", PAGE, re.MULTILINE | re.DOTALL)
    for error in (PoolTimeoutError(), PoolExhaustedError(), PoolSaturatedError(), PoolClosedError(), PoolError()):
        assert all(hasattr(error, field) for field in re.findall(r"`(\w+)`", sentence))
