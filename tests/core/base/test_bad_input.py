import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple, cast

import pytest

from resilience import (
    Bulkhead,
    CircuitBreaker,
    ConfigurationError,
    Deadline,
    Fallback,
    Health,
    Lifecycle,
    Pipeline,
    RateLimit,
    Retry,
    RetryBudget,
    Timeout,
    TokenBucket,
)
from resilience.events import Emitter


class Pair(NamedTuple):
    left: int
    right: int


class Uncomparable:
    """As numpy's arrays are: comparing one gives no yes or no."""

    def __eq__(self, _other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = object.__hash__


async def coroutine_function(*_: Any) -> None: ...


NO_NUMBERS: tuple[Any, ...] = (
    -1,
    True,
    math.nan,
    math.inf,
    10**400,
    "",
    "abc",
    "5 parsecs",
    "9" * 10_000,
    b"5",
    [],
    object(),
)
NO_NUMBERS += (Pair(1, 2), Uncomparable(), Decimal(1), 1j, int, print, timedelta.max, timedelta(-1))
NO_CALLABLES: tuple[Any, ...] = (None, 3, "time", object(), coroutine_function)
NO_NAMES = ("", 3, "x" * 101, b"name", object())
NO_LISTS = (3, "abc", print, object())

POLICIES: Mapping[Callable[..., Any], Mapping[str, tuple[Any, ...]]] = {
    CircuitBreaker: {
        **dict.fromkeys(
            ("fail_max", "reset_timeout", "success_threshold", "sliding_window", "minimum_calls"), NO_NUMBERS
        ),
        **dict.fromkeys(("half_open_max_calls", "half_open_lease", "failure_rate_threshold"), NO_NUMBERS),
        **dict.fromkeys(("slow_call_rate_threshold", "failure_count_threshold"), NO_NUMBERS),
        **dict.fromkeys(("slow_call_duration_threshold", "reset_timeout_max", "reset_timeout_decay"), NO_NUMBERS),
        **dict.fromkeys(("reset_timeout_jitter", "reset_timeout_growth", "ramp", "ramp_initial"), NO_NUMBERS),
        **dict.fromkeys(("half_open_failure_rate_threshold", "half_open_max_duration"), NO_NUMBERS),
        **dict.fromkeys(("throw_new_error_on_trip", "shadow"), (None, 0, "yes")),
        "mode": (None, 3, "off", "Disabled", object()),
        **dict.fromkeys(("record", "ignore"), (3, "abc", [3], [int], int, coroutine_function, object())),
        **dict.fromkeys(("record_result", "retry_after"), (3, "abc", int, coroutine_function)),
        "randomness": NO_CALLABLES,
        "exclude": (*NO_LISTS, [3], [int], [coroutine_function]),
        "listeners": (*NO_LISTS, [3], [coroutine_function]),
        "state_storage": (3, "redis", object()),
        "clock": NO_CALLABLES,
        "name": NO_NAMES,
    },
    Retry: {
        **dict.fromkeys(
            ("attempts", "timeout", "wait_initial", "wait_max", "wait_jitter", "wait_exp_base"), NO_NUMBERS
        ),
        **dict.fromkeys(("wait", "stop", "retry", "before_sleep", "after", "retry_error_callback"), (3, "x")),
        "on": (None, 3, "OSError", (), int, KeyboardInterrupt, [OSError], (OSError, 3)),
        **dict.fromkeys(("on_result", "retry_after"), (3, "x", object())),
        "backoff": (None, 3, "fibonacci", "Exponential"),
        "idempotent_only": (None, 0, "yes"),
        "budget": (3, "", "no spaces", RetryBudget, object()),
        "clock": NO_CALLABLES,
        "randomness": NO_CALLABLES,
        "name": NO_NAMES,
    },
    RetryBudget: {"ratio": NO_NUMBERS, "minimum": NO_NUMBERS},
    Bulkhead: {
        **dict.fromkeys(("max_concurrent_calls", "max_wait", "max_waiting"), NO_NUMBERS),
        "clock": NO_CALLABLES,
        "name": NO_NAMES,
    },
    Timeout: {
        **dict.fromkeys(("seconds", "max_threads"), NO_NUMBERS),
        "clock": NO_CALLABLES,
        "name": NO_NAMES,
    },
    Fallback: {
        "function": (3, "x"),
        "on": (None, 3, (), int, KeyboardInterrupt),
        "clock": NO_CALLABLES,
        "name": NO_NAMES,
    },
}
CASES = [(make, option, value) for make, options in POLICIES.items() for option in options for value in options[option]]


@pytest.mark.parametrize(("make", "option", "value"), CASES, ids=lambda part: str(type(part).__name__))
def test_bad_option_is_refused_by_name(make: Callable[..., Any], option: str, value: Any) -> None:
    """Whatever is wrong with an option, making the policy raises one error that names it and the rule."""
    needed = {"value": 1} if make is Fallback and option != "function" else {}
    with pytest.raises(ConfigurationError, match=rf"\b{option}\b.*expected|Fallback takes exactly one"):
        make(**needed, **{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("listeners", value) for value in (*NO_LISTS, None, [3], [coroutine_function])),
        *(("sleeper", value) for value in (None, 3, object())),
    ],
)
def test_bad_option_of_a_pipeline_is_refused_by_name(option: str, value: Any) -> None:
    """The same for what a pipeline takes."""
    with pytest.raises(ConfigurationError, match=rf"Pipeline\.{option}=.*expected"):
        Pipeline("p", **{option: value})


def test_bad_names_given_later_are_refused() -> None:
    """A name is checked when it is assigned as well."""
    breaker = CircuitBreaker(name="known")
    with pytest.raises(ConfigurationError, match="name=''"):
        breaker.name = ""
    assert breaker.name == "known"


def test_bad_listener_is_refused_when_it_subscribes() -> None:
    """What cannot be called, or would only make a coroutine, is refused before the first event."""
    for wrong in NO_CALLABLES:
        with pytest.raises(ConfigurationError, match="a function that takes one Event"):
            Emitter().subscribe(wrong)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        *((lambda wrong=wrong: Deadline(cast("Any", wrong)), "at=") for wrong in ("soon", None, True, math.nan, [1])),
        (lambda: Deadline(1.0, clock=cast("Any", 3)), "clock=3"),
        (lambda: Deadline.after("soon"), "Deadline.after='soon'"),
        (lambda: TokenBucket("1/second", clock=cast("Any", 3)), "clock=3"),
        (lambda: RateLimit("1/second", clock=cast("Any", 3)), "clock=3"),
        (lambda: Health(clock=cast("Any", 3)), "clock=3"),
        (lambda: Lifecycle(cast("Any", "abc")), "options='abc'"),
        (lambda: Lifecycle(clock=cast("Any", 3)), "clock=3"),
        (lambda: Retry(cast("Any", "x"), stop=lambda _: True), "attempts='x'"),
    ],
)
def test_bad_input_of_other_constructors_is_refused_by_name(make: Callable[[], object], named: str) -> None:
    """What is not a policy, and what another option overrules, is checked where it is given too."""
    with pytest.raises(ConfigurationError, match="expected") as caught:
        make()
    assert named in str(caught.value)


def test_a_moment_may_be_whole_or_never() -> None:
    """A deadline takes any number a clock may show, and infinity for no deadline at all."""
    assert (Deadline(3, clock=lambda: 1.0).remaining(), Deadline(math.inf).expired) == (2.0, False)
