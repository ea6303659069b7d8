"""The half-open state of a shared breaker: each trial needs a slot of the fleet. `shared/_machine.py` explains it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from resilience.breaker._plan import TrialRule
from resilience.breaker._states import HalfOpen, Permit, Refusal, RunningCalls, StateChange, Trial

__all__ = ("WAITS", "FleetSide", "LeasedTrials")

WAITS: Final = "waits for a trial slot of the fleet"
_NEVER: Final = 1 << 62


class FleetSide(Protocol):
    """The fleet as a circuit sees it. The circuit calls each method under its lock."""

    @property
    def is_joined(self) -> bool:
        """Whether the circuit follows the fleet."""
        ...

    @property
    def figures(self) -> Mapping[str, object]:
        """The figures of a snapshot."""
        ...

    def levels(self, now: float) -> Mapping[str, float]:
        """Return a 1 for each of the fleet's states that concern this circuit. Takes no lock."""
        ...

    def join(self, name: str, key: str | None) -> None:
        """Follow the fleet from now on. Never blocks for Redis."""

    def admit(self, now: float, patience: float) -> tuple[Permit | Refusal, StateChange | None]:
        """Decide about one call."""
        ...

    def look(self, now: float, change: StateChange | None = None) -> None:
        """Make a round soon if the fleet should learn of a change."""


class LeasedTrials(HalfOpen):
    """Half-open in the whole fleet: `tokens` are the slots of this instance, for running trials and for later ones.

    The trials close nothing here, because the record of the fleet counts the successes of all instances. A failed
    trial can open this circuit at once. Without Redis (`end_leases`) it is a half-open state like any other.
    """

    __slots__ = ("_counted", "_unused_from", "has_leases", "leased_until", "tokens")

    def __init__(self, rule: TrialRule, failures: int, running: RunningCalls | None) -> None:
        super().__init__(_without_closing(rule), math.inf, failures, running)
        self.available = 0
        self.tokens: list[str] = []
        self.has_leases = True
        self.leased_until = -math.inf
        """The local time until which the slots are certainly ours."""
        self._unused_from = -math.inf
        self._counted = (0, 0)

    def admit(self, now: float, patience: float, lease: float) -> Trial | Refusal:
        """Hand out a permit if a slot is free, or if another trial has to give up its own."""
        if not self.has_leases:
            return super().admit(now, patience, lease)
        if not self.available:
            self._take_over(patience)
        if not self.available or now >= self.leased_until:
            return Refusal(None, WAITS)
        trial, lease_end = Trial(self, now, patience), now + lease
        # Only operators from here on, as in `HalfOpen.admit`.
        self.available -= 1
        self.in_flight[trial] = lease_end
        return trial

    def use_rule(self, rule: TrialRule) -> None:
        """Use another rule from the next outcome on."""
        self.rule = _without_closing(rule) if self.has_leases else rule

    def grant(self, tokens: Iterable[str], now: float) -> None:
        """Add slots."""
        given = list(tokens)
        self.tokens += given
        self.available += len(given)
        self._unused_from = now

    def take_results(self) -> tuple[list[str], list[str]]:
        """Return the tokens of the trials that have succeeded and failed since the last call: their slots are used."""
        successes, failures = self._counted
        self._counted = self.successes, self.trial_failures
        return self._take(self.successes - successes), self._take(self.trial_failures - failures)

    def take_unused(self, now: float, patience: float) -> list[str]:
        """Return the slots that no call has used for `patience` seconds, and all slots if the lease has ended.

        The slot of a trial that never reported is unused again.
        """
        if now >= self.leased_until:  # this process has stood still: other instances may have the slots by now
            self.in_flight.clear()
            self.available = 0
            return self._take(len(self.tokens))
        for trial in [trial for trial, lease_end in self.in_flight.items() if lease_end <= now]:
            del self.in_flight[trial]
            self.available += 1
        if not self.available or now < self._unused_from + patience:
            return []
        unused, self.available = self.available, 0
        return self._take(unused)

    def end_leases(self, rule: TrialRule, ends: float) -> None:
        """Decide without the fleet from now on: Redis does not answer."""
        self.has_leases = False
        self.rule, self.ends = rule, ends
        self.tokens.clear()
        self.available = max(0, rule.permits - len(self.in_flight) - self.successes)

    def _take(self, count: int) -> list[str]:
        taken, self.tokens = self.tokens[:count], self.tokens[count:]
        return taken


def _without_closing(rule: TrialRule) -> TrialRule:
    return rule._replace(required_successes=_NEVER)
