"""Options that are validated once for all policies with the same values."""

from datetime import timedelta
from typing import Any

import pytest

from resilience import CircuitBreaker, ConfigurationError, Timeout
from resilience.timeout import TimeoutOptions


def test_the_same_values_are_validated_once() -> None:
    """Two policies with the same values share their options; other values make other options."""
    assert Timeout("3s").options is Timeout("3s").options
    assert Timeout(timedelta(seconds=3)).options == Timeout("3s").options
    assert Timeout(4).options.seconds == 4


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), (1, 1.0), ("1s", 1)])
def test_equal_values_of_other_types_are_other_values(one: Any, other: Any) -> None:
    """A value that is wrong stays wrong after an equal one of another type was accepted, and the reverse."""

    def outcome(value: Any) -> Any:
        try:
            return TimeoutOptions.of(seconds=5, max_threads=value)
        except ConfigurationError as error:
            return str(error)

    def alone(value: Any) -> Any:
        try:
            return TimeoutOptions(seconds=5, max_threads=value)
        except ConfigurationError as error:
            return str(error)

    for value in (one, other, one):
        assert outcome(value) == alone(value)


def test_what_is_wrong_is_refused_every_time() -> None:
    """An error is not remembered in place of options, and an unknown option is refused by its name."""
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="max_threads"):
            Timeout(5, max_threads=0)
        with pytest.raises(TypeError, match="no_such_option"):
            CircuitBreaker(no_such_option=1)  # type: ignore[call-arg]  # that is the point


def test_a_breaker_changed_in_use_changes_alone() -> None:
    """A limit that is changed on one breaker is not changed on another that was made with the same options."""
    one, other = CircuitBreaker(fail_max=7), CircuitBreaker(fail_max=7)
    one.fail_max = 3
    assert (one.fail_max, other.fail_max, CircuitBreaker(fail_max=7).fail_max) == (3, 7, 7)
