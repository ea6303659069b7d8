from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pybreaker
import pytest

from resilience import CircuitBreaker, CircuitOpenError, ConfigurationError, Pipeline
from resilience.testing import ManualClock, RecordingListener


def fail() -> None:
    raise ValueError("down")


def failing(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ValueError, match="down"):
            breaker.call(fail)


def made(clock: ManualClock, **options: Any) -> tuple[CircuitBreaker, RecordingListener]:
    heard = RecordingListener()
    breaker = CircuitBreaker(2, 10, clock=clock, listeners=[heard], reset_timeout_jitter=0, name="b", **options)
    return breaker, heard


def test_forced_open_refuses_everything() -> None:
    """A breaker that is forced open refuses every call, says why, and counts nothing."""
    breaker, heard = made(ManualClock())
    breaker.set_mode("forced_open", reason="database migration")
    with pytest.raises(CircuitOpenError, match=r"held open \(database migration\)") as caught:
        breaker.call(int)
    assert caught.value.retry_after is None
    assert (breaker.current_state, breaker.mode, breaker.fail_counter) == ("open", "forced_open", 0)
    assert heard.kinds == ["breaker.mode_changed", "breaker.rejected"]


def test_disabled_passes_everything_and_counts_nothing() -> None:
    """A disabled breaker lets every call through and learns nothing from it."""
    breaker, heard = made(ManualClock(), mode="disabled")
    failing(breaker, 5)
    assert breaker.call(int) == 0
    assert (breaker.current_state, breaker.mode, breaker.fail_counter) == ("closed", "disabled", 0)
    assert heard.kinds == []


def test_metrics_only_reports_and_refuses_nothing() -> None:
    """A breaker in metrics_only opens, half-opens and closes in its events and figures alone, and refuses nothing."""
    clock = ManualClock()
    breaker, heard = made(clock, shadow=True)
    failing(breaker, 2)
    assert breaker.call(int) == 0
    assert (breaker.current_state, breaker.mode) == ("closed", "metrics_only")
    assert breaker.snapshot()["circuit"] == "open"
    clock.advance(10)
    assert breaker.call(int) == 0
    assert heard.kinds == ["breaker.opened", "breaker.rejected", "breaker.half_opened", "breaker.closed"]
    assert all(event.facts["shadow"] is True for event in heard.events)


def test_pybreaker_listeners_hear_of_no_state_that_is_not_shown() -> None:
    """In metrics_only pybreaker's listeners get no change: for them the circuit stays closed."""
    changes: list[str] = []

    class Hook(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            changes.append(new_state.name)

    breaker = CircuitBreaker(1, listeners=[Hook()], mode="metrics_only")
    failing(breaker)
    assert changes == []


@pytest.mark.parametrize("mode", ["forced_open", "disabled", "metrics_only"])
def test_mode_expires(mode: str) -> None:
    """A mode set with an expiry ends by itself, at the first call or look after it, and the change is evented."""
    clock = ManualClock()
    breaker, heard = made(clock)
    breaker.set_mode(mode, expires="5s", reason="canary")
    clock.advance(4.9)
    assert breaker.snapshot()["mode_expires"] == pytest.approx(0.1)
    if mode == "forced_open":
        with pytest.raises(CircuitOpenError) as caught:
            breaker.call(int)
        assert caught.value.retry_after == pytest.approx(0.1)
    else:
        failing(breaker, 3)
    clock.advance(0.1)
    assert (breaker.mode, breaker.snapshot()["mode_expires"]) == ("automatic", None)
    first, last = heard.events[0], heard.events[-1]
    assert (first.facts["after"], first.facts["expires"], first.facts["reason"]) == (mode, 5.0, "canary")
    assert (last.kind, last.facts["before"], last.facts["after"]) == ("breaker.mode_changed", mode, "automatic")


def test_mode_expires_at_the_next_call() -> None:
    """A call made after the expiry is already judged by the rules again."""
    clock = ManualClock()
    breaker, _ = made(clock)
    breaker.set_mode("disabled", expires=5)
    clock.advance(5)
    failing(breaker, 2)
    with pytest.raises(CircuitOpenError):
        breaker.call(int)


def test_circuit_goes_on_where_it_was() -> None:
    """Back in automatic, the circuit is in the state it was in, and time has passed for it."""
    clock = ManualClock()
    breaker, _ = made(clock)
    failing(breaker, 2)
    breaker.set_mode("disabled")
    failing(breaker, 3)
    clock.advance(4)
    breaker.set_mode("automatic")
    assert (breaker.current_state, breaker.retry_after) == ("open", 6.0)


def test_mode_changes_reach_calls_compiled_before() -> None:
    """A pipeline that was built before an operator forces the circuit open refuses from then on."""
    breaker, _ = made(ManualClock())
    act: Callable[[], int] = Pipeline("p", breaker)(lambda: 1)
    assert act() == 1
    breaker.set_mode("forced_open")
    with pytest.raises(CircuitOpenError):
        act()
    breaker.set_mode("automatic")
    assert act() == 1


def test_call_admitted_in_another_mode_counts_for_nothing() -> None:
    """The outcome of a call that passed while the breaker was disabled changes nothing afterwards (L3)."""
    breaker, _ = made(ManualClock(), mode="disabled")
    permits = [breaker.admit() for _ in range(3)]
    breaker.set_mode("automatic")
    for permit in permits:
        breaker.on_failure(permit, ValueError())
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)


@pytest.mark.parametrize("mode", ["disabled", "forced_open"])
@pytest.mark.parametrize("options", [{}, {"slow_call_rate_threshold": 0.5, "slow_call_duration_threshold": 1}])
def test_calls_under_way_count_for_nothing(mode: str, options: dict[str, Any]) -> None:
    """A call that was admitted before a mode and ends in it changes nothing; a call that ends later counts."""
    clock = ManualClock()
    breaker = CircuitBreaker(2, minimum_calls=2, sliding_window=10, clock=clock, **options)
    permits = [breaker.admit() for _ in range(7)]
    breaker.on_failure(permits.pop(), ValueError())
    before = breaker.snapshot()
    breaker.set_mode(mode)
    breaker.on_success(permits.pop(), None)
    clock.advance(2)
    for _ in range(2):
        breaker.on_success(permits.pop(), None)
        breaker.on_failure(permits.pop(), ValueError())
    shown = breaker.snapshot()
    assert (shown["failures"], shown["calls"], shown["circuit"]) == (before["failures"], before["calls"], "closed")
    breaker.set_mode("automatic")
    breaker.on_failure(permits.pop(), ValueError())
    assert breaker.current_state == "open"


@pytest.mark.parametrize("mode", ["disabled", "forced_open"])
def test_trial_under_way_gives_its_permit_back(mode: str) -> None:
    """A trial that ends while an operator has taken over decides nothing, and another call may try afterwards (L2)."""
    for outcome in ("on_success", "on_failure"):
        breaker, _ = made(ManualClock())
        breaker.half_open()
        permit = breaker.admit()
        breaker.set_mode(mode)
        getattr(breaker, outcome)(permit, ValueError())
        shown = breaker.snapshot()
        assert (shown["circuit"], shown["trials_running"]) == ("half-open", 0)
        breaker.set_mode("automatic")
        assert breaker.call(int) == 0
        assert breaker.current_state == "closed"


def test_calls_under_way_leave_a_storage_alone() -> None:
    """A failure that counts for nothing is not counted in a storage either."""
    storage = pybreaker.CircuitMemoryStorage("closed")
    breaker, _ = made(ManualClock(), state_storage=storage)
    permits = [breaker.admit() for _ in range(3)]
    breaker.on_failure(permits.pop(), ValueError())
    breaker.set_mode("disabled")
    breaker.on_success(permits.pop(), None)
    breaker.on_failure(permits.pop(), ValueError())
    assert storage.counter == 1


@pytest.mark.parametrize("mode", ["forced_open", "disabled", "metrics_only"])
def test_views_agree_on_a_mode(mode: str) -> None:
    """A mode that has run out is seen nowhere, whether or not a call has ended it; one in force is seen everywhere."""
    clock = ManualClock()
    breaker, _ = made(clock)
    breaker.open()
    breaker.set_mode(mode, expires=5)
    clock.advance(1)
    is_open = mode == "forced_open"
    state, left = ("open", 4.0) if is_open else ("closed", None)
    assert (breaker.current_state, breaker.state.name, breaker.retry_after) == (state, state, left)
    assert repr(breaker) == f"<CircuitBreaker 'b' {'open for 4.0 s' if is_open else 'closed'} ({mode})>"
    clock.advance(4)
    assert (breaker.current_state, breaker.state.name, breaker.retry_after) == ("open", "open", 5.0)
    assert repr(breaker) == "<CircuitBreaker 'b' open for 5.0 s>"
    assert breaker.mode == "automatic"
    breaker.set_mode("forced_open")
    assert breaker.retry_after is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"mode": "off"}, "mode"),
        ({"mode": "disabled", "expires": "soon"}, "expires"),
        ({"mode": "disabled", "expires": 0}, "expires"),
        ({"mode": "automatic", "expires": 5}, "expires"),
        ({"mode": "disabled", "reason": ""}, "reason"),
    ],
)
def test_mode_that_cannot_be_is_refused(arguments: dict[str, Any], named: str) -> None:
    """A mode, expiry or reason that breaks its rule is refused with its name, and changes nothing."""
    breaker, _ = made(ManualClock())
    with pytest.raises(ConfigurationError, match=named):
        breaker.set_mode(**arguments)
    assert breaker.mode == "automatic"


def test_open_for_a_given_time() -> None:
    """`open_for` opens for exactly that long, without jitter, whatever the reset timeout is."""
    clock = ManualClock()
    breaker, heard = made(clock)
    breaker.open_for("90s", reason="maintenance window")
    assert breaker.retry_after == 90.0
    assert heard.events[0].facts["reason"] == "maintenance window"
    clock.advance(90)
    assert breaker.call(int) == 0


def test_open_until_a_moment() -> None:
    """`open_until` takes a moment of the breaker's clock or an aware datetime; one that has passed opens nothing."""
    clock = ManualClock(1000.0)
    breaker, _ = made(clock)
    breaker.open_until(900.0)
    breaker.open_until(datetime.now(UTC) - timedelta(hours=1))
    assert breaker.current_state == "closed"
    breaker.open_until(1030.0)
    assert breaker.retry_after == 30.0
    breaker.open_until(datetime.now(UTC) + timedelta(hours=1))
    assert breaker.retry_after == pytest.approx(3600, abs=5)
    for moment in (datetime(2030, 1, 1), "soon", True, float("nan")):  # noqa: DTZ001 - refused here
        with pytest.raises(ConfigurationError, match="moment"):
            breaker.open_until(moment)  # type: ignore[arg-type]  # refused here


def test_snapshot_shows_the_figures() -> None:
    """A snapshot shows state, mode, counts, rates, openings and the open time left, and changes nothing."""
    clock = ManualClock()
    breaker = CircuitBreaker(
        failure_rate_threshold=0.5, sliding_window="10s", minimum_calls=4, reset_timeout=30, reset_timeout_jitter=0,
        half_open_max_calls=2, success_threshold=2, ramp="20s", clock=clock,
    )  # fmt: skip
    breaker.call(int)
    failing(breaker)
    shown = breaker.snapshot()
    assert (shown["state"], shown["failures"], shown["calls"], shown["failure_rate"]) == ("closed", 1, 2, 0.5)
    failing(breaker, 2)
    assert breaker.snapshot() | {"state": "open", "openings": 1, "retry_after": 30.0} == breaker.snapshot()
    clock.advance(30)
    breaker.call(int)
    shown = breaker.snapshot()
    assert (shown["state"], shown["trials_succeeded"], shown["trials_failed"]) == ("half-open", 1, 0)
    breaker.call(int)
    clock.advance(10)
    assert breaker.snapshot()["admitted_share"] == pytest.approx(0.55)


def test_repr_reads_well() -> None:
    """The repr contains the name, the state, the time left, and the mode if it is not `automatic`."""
    breaker, _ = made(ManualClock())
    assert repr(breaker) == "<CircuitBreaker 'b' closed>"
    breaker.open()
    assert repr(breaker) == "<CircuitBreaker 'b' open for 10.0 s>"
    breaker.set_mode("metrics_only")
    assert repr(breaker) == "<CircuitBreaker 'b' closed (metrics_only)>"


@pytest.mark.parametrize("configured", ["automatic", "metrics_only"])
def test_a_mode_with_an_expiry_gives_way_to_the_configured_one(configured: str) -> None:
    """A breaker that was made to report only does not refuse calls because an operator's order for it has run out."""
    clock = ManualClock()
    breaker, _ = made(clock, mode=configured)
    breaker.set_mode("disabled", expires=5)
    clock.advance(5)
    figures = breaker.snapshot()
    assert (figures["mode"], breaker.mode) == (configured, configured)
    failing(breaker, 2)
    assert breaker.snapshot()["circuit"] == "open"
    assert breaker.current_state == ("open" if configured == "automatic" else "closed")
