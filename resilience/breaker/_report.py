"""The breaker's facts as plain data: what its events carry, and what a snapshot shows."""

from __future__ import annotations

from typing import Any

from resilience.breaker._epochs import Closed, HalfOpen, Ramp
from resilience.breaker._machine import Machine, Transition

__all__ = ("EVENTS", "SEVERITY", "event_of", "facts_of", "figures_of")

EVENTS = {"closed": "breaker.closed", "open": "breaker.opened", "half-open": "breaker.half_opened"}
SEVERITY = {"closed": "info", "open": "error", "half-open": "warning"}


def event_of(change: Transition) -> str:
    """Return the kind of event that a transition is."""
    return "breaker.ramped" if change.before == change.after == "closed" else EVENTS[change.after]


def facts_of(change: Transition, machine: Machine, now: float) -> dict[str, Any]:
    """Return what happened: the states, the rule, and the counts of the epoch that ended."""
    failures, calls, slow = change.counts
    facts: dict[str, Any] = {"before": change.before, "after": change.after, "reason": change.reason}
    facts |= {"failures": failures, "calls": calls, "slow_calls": slow}
    if change.after == "open":
        facts |= {"retry_after": machine.retry_after(now), "openings": machine.openings}
    return facts


def figures_of(machine: Machine, now: float) -> dict[str, Any]:
    """Return how the circuit is: counts and rates of what its rules see, and what its present state is about."""
    failures, calls, slow = machine.counts(now)
    epoch = machine.epoch
    figures: dict[str, Any] = {
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
            "trials_running": len(epoch.out),
            "trials_succeeded": epoch.successes,
            "trials_failed": epoch.losses,
        }
    if isinstance(epoch, Ramp):
        figures["admitted_share"] = epoch.share(now)
    if isinstance(epoch, Closed | Ramp) and epoch.running is not None:
        figures["running"] = len(epoch.running)
    return figures
