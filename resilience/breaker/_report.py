"""The circuit seen from outside: the refusal that callers get, the events of its changes, and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pybreaker

from resilience._support.measured import Measurement
from resilience.breaker._machine import CircuitMachine, StateChange
from resilience.breaker._plan import METRICS_ONLY, Mode
from resilience.breaker._states import CLOSED, HALF_OPEN, OPEN, Closed, HalfOpen, Open, Ramp
from resilience.errors import RejectedError
from resilience.event_log import opening

__all__ = (
    "EVENTS",
    "SEVERITY",
    "CircuitOpenError",
    "figures_of",
    "kind_and_facts",
    "measurement_of",
    "new_refusal",
    "open_message",
)

EVENTS = {"closed": "breaker.closed", "open": "breaker.opened", "half-open": "breaker.half_opened"}
SEVERITY = {"closed": "info", "open": "error", "half-open": "warning"}


class CircuitOpenError(RejectedError, pybreaker.CircuitBreakerError):
    """The circuit is open, and the call was not made.

    It is a `pybreaker.CircuitBreakerError`, too, so that existing `except` clauses keep working. `policy` is the name
    of the breaker. `retry_after` is the number of seconds until the circuit may admit a call, None if that is not
    known.
    """

    code = "CIRCUIT_OPEN"
    _hint = "next trial in"


new_refusal = CircuitOpenError.__new__
"""Makes a refusal from the class, the message, the policy and `retry_after`, without `__init__`: it has to be cheap."""


def open_message(circuit: str, facts: Mapping[str, Any]) -> str:
    """Return the text of refusals from now on, made once, by the facts of the opening."""
    counts = facts["failures"], facts["calls"], facts["slow_calls"]
    return f"circuit {circuit} is open: {opening(facts['reason'], *counts, facts['last_error'])}"


def kind_and_facts(
    change: StateChange, machine: CircuitMachine, now: float, mode: Mode | None, last_error: str | type | None
) -> tuple[str, dict[str, Any]]:
    """Return the event of a change: its kind, and the states, the rule, and the counts of the epoch that ended."""
    failures, calls, slow = change.counts
    facts: dict[str, Any] = {"before": change.before, "after": change.after, "reason": change.reason}
    facts |= {"failures": failures, "calls": calls, "slow_calls": slow}
    epoch = machine.epoch
    if isinstance(epoch, Open):
        facts |= {"retry_after": max(0.0, epoch.until - now), "openings": machine.openings}
        has_error = last_error not in (None, type(None))  # else a result has counted as a failure
        facts["last_error"] = getattr(last_error, "__name__", last_error) if has_error else None
    if mode is not None and mode.word == METRICS_ONLY:
        facts["shadow"] = True
    return "breaker.ramped" if change.before == change.after == "closed" else EVENTS[change.after], facts


def figures_of(machine: CircuitMachine, mode: Mode, now: float) -> dict[str, Any]:
    """Return a snapshot: state and mode, the counts and rates that the rules see, and the figures of the state."""
    failures, calls, slow = machine.counts(now)
    epoch = machine.epoch
    figures: dict[str, Any] = {
        "state": mode.state or epoch.state,
        "mode": mode.word,
        "mode_reason": mode.reason,
        "mode_expires": mode.left(now),
        "circuit": epoch.state,
        "failures": failures,
        "calls": calls,
        "slow_calls": slow,
        "failure_rate": failures / calls if calls else None,
        "slow_call_rate": slow / calls if calls else None,
        "openings": machine.openings,
        "retry_after": machine.retry_after(now),
    }
    if isinstance(epoch, HalfOpen):
        figures |= {
            "trials_running": len(epoch.in_flight),
            "trials_succeeded": epoch.successes,
            "trials_failed": epoch.trial_failures,
        }
    if isinstance(epoch, Ramp):
        figures["admitted_share"] = epoch.share(now)
    if isinstance(epoch, Closed | Ramp) and epoch.running is not None:
        figures["running"] = len(epoch.running)
    return figures


def measurement_of(name: str, machine: CircuitMachine, mode: Mode | None) -> Measurement:
    """Return the calls by outcome, the changes of the state, and a 1 for the state that callers see and for the mode.

    Takes no lock.
    """
    totals, epoch, mode_state = machine.totals, machine.epoch, None if mode is None else mode.state
    entered = totals.entered
    counts = {
        "success": totals.successes(epoch),
        "failure": totals.failures,
        "refused": totals.refused,
        "shadow": totals.refused_in_shadow,
        "entered closed": entered[CLOSED],
        "entered open": entered[OPEN],
        "entered half-open": entered[HALF_OPEN],
    }
    shown = mode_state or epoch.state
    return Measurement("breaker", name, counts, {shown: 1} if mode is None else {shown: 1, mode.word: 1})
