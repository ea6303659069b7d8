"""Circuit breakers: what a call costs while the circuit is closed, and what a refusal costs while it is open."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import harness
import samples
from harness import Case, Contender, Sample, Session

from resilience import CircuitBreaker, CircuitOpenError, Keyed, Pipeline

__all__ = ("CASES",)

_WINDOW = "opens at 50 % of the last 100 calls, judged from 20 on"
_IN_TIME = "opens at 50 % of the calls of the last 60 s, judged from 20 on"
_TIMED = f"{_WINDOW}; calls above 60 s are slow, and counted while they run"
_TIMED_IN_TIME = f"{_IN_TIME}; calls above 60 s are slow, and counted while they run"
_KEYED = f"a breaker for each argument; {_WINDOW}"
_RUN = "opens after 5 failures in a row"
_LONG = 3600


def work(order: int) -> int:
    """Do as little as a function can."""
    return order


async def awork(order: int) -> int:
    """Do as little as a coroutine can."""
    return order


def fail(order: int) -> int:
    """Stand for a dependency that is down."""
    raise ConnectionError(order)


def _window() -> CircuitBreaker:
    return CircuitBreaker(failure_rate_threshold=0.5, sliding_window=100, minimum_calls=20, reset_timeout=_LONG)


def _run() -> CircuitBreaker:
    return CircuitBreaker(fail_max=5, reset_timeout=_LONG)


def _in_time() -> CircuitBreaker:
    return CircuitBreaker(failure_rate_threshold=0.5, sliding_window="60s", minimum_calls=20, reset_timeout=_LONG)


def _timed(window: int | str = 100) -> CircuitBreaker:
    return CircuitBreaker(
        failure_rate_threshold=0.5,
        slow_call_rate_threshold=0.5,
        sliding_window=window,
        minimum_calls=20,
        reset_timeout=_LONG,
    )


def _keyed() -> Keyed:
    return Keyed(lambda _key: _window(), key=lambda order: order)


def _piped(breaker: CircuitBreaker | Keyed, function: Callable[..., Any]) -> Callable[..., Any]:
    return Pipeline("bench", breaker)(function)


def _pybreaker() -> Any:
    return harness.peer("pybreaker").CircuitBreaker(fail_max=5, reset_timeout=_LONG)


def _circuitbreaker(function: Callable[..., Any]) -> Any:
    module = harness.peer("circuitbreaker")
    # Its registry is by name: each breaker here needs one of its own.
    return module.circuit(failure_threshold=5, recovery_timeout=_LONG, name=f"bench-{id(object())}")(function)


def _pyresilience(function: Callable[..., Any], window: int = 0) -> Any:
    module = harness.peer("pyresilience")
    config = module.CircuitBreakerConfig(
        failure_threshold=5,
        recovery_timeout=_LONG,
        sliding_window_size=window,
        failure_rate_threshold=0.5,
        minimum_calls=20,
    )
    return module.resilient(circuit_breaker=config)(function)


def _interlock(function: Callable[..., Any]) -> Any:
    module = harness.peer("interlock", "interlock-cb")
    config = module.Config(
        window_size=100, failure_rate_threshold=0.5, minimum_number_of_calls=20, wait_duration_in_open=_LONG
    )
    return module.CircuitBreaker(name="bench", config=config)(function)


def _sync(build: Callable[[], Callable[..., Any]]) -> Callable[[Session], Sample]:
    return lambda _session: samples.calls(build(), 1)


def _aio(build: Callable[[], Callable[..., Any]]) -> Callable[[Session], Sample]:
    return lambda session: samples.awaits(session, build())


def _called(breaker: Callable[[], Any]) -> Callable[[Session], Sample]:
    return lambda _session: samples.calls(breaker().call, work, 1)


def _refused(build: Callable[[], Any], error: Callable[[], type[BaseException]]) -> Callable[[Session], Sample]:
    def prepared(_session: Session) -> Sample:
        guarded = build()
        for _ in range(25):
            with contextlib.suppress(Exception):
                guarded(1)
        return samples.rejections(guarded, error())

    return prepared


def _raise_one(order: int) -> int:
    raise LookupError(order)


CLOSED = Case(
    "breaker",
    "Closed, blocking",
    Contender("bare call", lambda _session: samples.calls(work, 1)),
    (
        Contender("resilience, window, in a pipeline", _sync(lambda: _piped(_window(), work)), _WINDOW, 220),
        Contender("resilience, window, @breaker", _sync(lambda: _window()(work)), _WINDOW),
        Contender("resilience, window, breaker.call", _called(_window), _WINDOW),
        Contender("resilience, in a row, in a pipeline", _sync(lambda: _piped(_run(), work)), _RUN),
        Contender("resilience, 60 s, in a pipeline", _sync(lambda: _piped(_in_time(), work)), _IN_TIME),
        Contender("resilience, slow calls, in a pipeline", _sync(lambda: _piped(_timed(), work)), _TIMED),
        Contender(
            "resilience, 60 s and slow calls, in a pipeline",
            _sync(lambda: _piped(_timed("60s"), work)),
            _TIMED_IN_TIME,
            450,
        ),
        Contender("resilience, one per key, in a pipeline", _sync(lambda: _piped(_keyed(), work)), _KEYED, 700),
        Contender("resilience, in a row, @breaker", _sync(lambda: _run()(work)), _RUN),
        Contender("resilience, in a row, breaker.call", _called(_run), _RUN),
        Contender("circuitbreaker", _sync(lambda: _circuitbreaker(work)), f"decorator, {_RUN}; not thread-safe"),
        Contender("pybreaker, @breaker", _sync(lambda: _pybreaker()(work)), _RUN),
        Contender("pybreaker, breaker.call", _called(_pybreaker), _RUN),
        Contender("pyresilience", _sync(lambda: _pyresilience(work)), _RUN),
        Contender("pyresilience, window", _sync(lambda: _pyresilience(work, 100)), _WINDOW),
        Contender("interlock-cb, window", _sync(lambda: _interlock(work)), _WINDOW),
    ),
    note="One thread. pybreaker holds its lock while the function runs; the other libraries do not.",
)

CLOSED_AIO = Case(
    "aio-breaker",
    "Closed, awaiting",
    Contender("bare call", lambda session: samples.awaits(session, awork)),
    (
        Contender("resilience, window, in a pipeline", _aio(lambda: _piped(_window(), awork)), _WINDOW, 300),
        Contender("resilience, window, @breaker", _aio(lambda: _window()(awork)), _WINDOW),
        Contender("resilience, in a row, in a pipeline", _aio(lambda: _piped(_run(), awork)), _RUN),
        Contender(
            "resilience, 60 s and slow calls, in a pipeline",
            _aio(lambda: _piped(_timed("60s"), awork)),
            _TIMED_IN_TIME,
            550,
        ),
        Contender("circuitbreaker", _aio(lambda: _circuitbreaker(awork)), f"decorator, {_RUN}"),
        Contender("pyresilience", _aio(lambda: _pyresilience(awork)), _RUN),
        Contender("pyresilience, window", _aio(lambda: _pyresilience(awork, 100)), _WINDOW),
        Contender("interlock-cb, window", _aio(lambda: _interlock(awork)), _WINDOW),
    ),
    note="pybreaker is left out, because its decorator does not count the failures of a coroutine function.",
)

OPEN = Case(
    "open-breaker",
    "Open: the refusal raised and caught, blocking",
    Contender("bare call that succeeds", lambda _session: samples.rejections(work, LookupError)),
    (
        Contender("any error raised and caught", lambda _session: samples.rejections(_raise_one, LookupError)),
        Contender(
            "resilience, in a pipeline",
            _refused(lambda: _piped(_window(), fail), lambda: CircuitOpenError),
            _WINDOW,
            700,
        ),
        Contender("resilience, @breaker", _refused(lambda: _run()(fail), lambda: CircuitOpenError), _RUN),
        Contender(
            "circuitbreaker",
            _refused(lambda: _circuitbreaker(fail), lambda: harness.peer("circuitbreaker").CircuitBreakerError),
            _RUN,
        ),
        Contender(
            "pybreaker",
            _refused(lambda: _pybreaker()(fail), lambda: harness.peer("pybreaker").CircuitBreakerError),
            _RUN,
        ),
        Contender(
            "pyresilience",
            _refused(lambda: _pyresilience(fail), lambda: harness.peer("pyresilience").CircuitOpenError),
            _RUN,
        ),
        Contender(
            "interlock-cb",
            _refused(lambda: _interlock(fail), lambda: harness.peer("interlock", "interlock-cb").CircuitOpenError),
            _WINDOW,
        ),
    ),
    note="Events have no listener. 25 failing calls opened each circuit.",
)

CASES = (CLOSED, CLOSED_AIO, OPEN)
