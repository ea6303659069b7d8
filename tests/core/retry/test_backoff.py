import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import ConfigurationError, Pipeline, Retry
from resilience.config import load
from resilience.retry import RetryOptions
from resilience.retry._backoff import above_floor, backoff
from resilience.testing import ManualClock

KINDS = ("exponential", "linear", "constant", "decorrelated")
JITTERS: tuple[Any, ...] = ("full", "equal", "none", 0, 2, "500ms")


def waits(dice: float, count: int = 5, **options: Any) -> list[float]:
    told, found = RetryOptions(**{"wait_initial": 1, "wait_max": 10, **options}), [0.0]
    for attempt in range(1, count + 1):
        found.append(backoff(told, attempt, found[-1], lambda: dice))
    return found[1:]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"backoff": "exponential"}, [1, 2, 4, 8, 10]),
        ({"backoff": "exponential", "wait_exp_base": 3}, [1, 3, 9, 10, 10]),
        ({"backoff": "linear"}, [1, 2, 3, 4, 5]),
        ({"backoff": "constant"}, [1, 1, 1, 1, 1]),
    ],
)
def test_waits_grow_as_told(options: dict[str, Any], expected: list[float]) -> None:
    """Without jitter the waits are those of the backoff named, up to the cap."""
    assert waits(0.5, wait_jitter="none", **options) == expected
    assert waits(0.5, wait_jitter=0, **options) == expected


@pytest.mark.parametrize(
    ("jitter", "lowest", "middle"),
    [("full", [0, 0, 0], [0.5, 1, 2]), ("equal", [0.5, 1, 2], [0.75, 1.5, 3]), (1, [1, 2, 4], [1.5, 2.5, 4.5])],
)
def test_jitter_is_applied_after_the_cap(jitter: Any, lowest: list[float], middle: list[float]) -> None:
    """Full jitter draws from nothing to the wait, equal from half of it, a duration is added."""
    assert waits(0.0, count=3, wait_jitter=jitter) == lowest
    assert waits(0.5, count=3, wait_jitter=jitter) == middle
    assert max(waits(0.999, count=50, wait_jitter=jitter)) <= 10


def test_full_jitter_is_the_default() -> None:
    """Who says nothing gets full jitter."""
    assert RetryOptions().wait_jitter == "full"
    assert waits(0.5, wait_jitter="full") == waits(0.5)


def test_decorrelated_waits_depend_on_the_one_before() -> None:
    """Each wait is drawn between the first one and three times the one before."""
    assert waits(0.0, backoff="decorrelated") == [1, 1, 1, 1, 1]
    assert waits(0.5, backoff="decorrelated", wait_max=100) == [2, 3.5, 5.75, 9.125, 14.1875]
    assert waits(0.999, backoff="decorrelated", count=50)[-1] == 10


def test_decorrelated_waits_remember_within_a_call() -> None:
    """The wait before is the one this very call has waited."""
    clock = ManualClock()
    retry = Retry(
        4,
        backoff="decorrelated",
        wait_initial=1,
        wait_max=100,
        on=lambda error: 7.0 if "7" in str(error) else True,
        clock=clock,
        randomness=lambda: 0.5,
    )
    messages = iter(["", "7", ""])

    def fail() -> str:
        for message in messages:
            raise OSError(message)
        return "fine"

    assert Pipeline("p", retry, sleeper=clock).call(fail) == "fine"
    assert clock.slept == [2, 7, 11]


@given(
    st.sampled_from(KINDS),
    st.sampled_from(JITTERS),
    st.integers(1, 10**6),
    st.floats(0, 0.999),
    st.floats(0, 10),
    st.floats(0, 60),
    st.floats(0, 60),
    st.floats(1, 100),
)
def test_backoff_is_bounded(
    kind: str, jitter: Any, attempt: int, dice: float, initial: float, longest: float, previous: float, base: float
) -> None:
    """However many attempts, the wait is a number between 0 and its cap."""
    options = RetryOptions(backoff=kind, wait_jitter=jitter, wait_initial=initial, wait_max=longest, wait_exp_base=base)
    assert 0 <= backoff(options, attempt, previous, lambda: dice) <= longest


@given(st.sampled_from(JITTERS), st.floats(0, 0.999), st.floats(0, 10**6))
def test_jitter_on_what_a_server_asked_for_goes_up_only(jitter: Any, dice: float, floor: float) -> None:
    """No client comes back before the time a server named, and none much later (L8)."""
    options = RetryOptions(wait_jitter=jitter)
    assert floor <= above_floor(options, floor, lambda: dice) <= floor + max(options.wait_max, 2)
    assert jitter not in ("none", 0) or above_floor(options, floor, lambda: dice) == floor


@pytest.mark.parametrize("jitter", ["Full", "half", -1, None, True, float("nan"), "", object()])
def test_bad_jitter_is_named(jitter: Any) -> None:
    """What is no kind of jitter and no duration is refused, naming both."""
    with pytest.raises(ConfigurationError, match=r"wait_jitter=.*expected one of full, equal, none, or a duration"):
        Retry(wait_jitter=jitter)


@pytest.mark.parametrize(
    ("text", "value"), [("none", "none"), ("FULL", "full"), (" equal ", "equal"), ("250ms", 0.25), ("0", 0.0)]
)
def test_jitter_is_set_by_text(text: str, value: Any) -> None:
    """A variable takes the words in any case, and durations."""
    options = load({"RESILIENCE_PIPELINE__X__RETRY__WAIT_JITTER": text}).pipeline("x")["retry"]
    assert isinstance(options, RetryOptions)
    assert options.wait_jitter == value


@pytest.mark.parametrize(("kind", "jitter"), list(itertools.product(KINDS, JITTERS)))
def test_every_backoff_goes_with_every_jitter(kind: str, jitter: Any) -> None:
    """Any two options combine, in code and as text, into a retry that works."""
    clock = ManualClock()
    calls: list[int] = []

    def fail() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise OSError
        return len(calls)

    make: Callable[..., Retry] = Retry
    assert Pipeline("p", make(backoff=kind, wait_jitter=jitter, clock=clock), sleeper=clock).call(fail) == 3
