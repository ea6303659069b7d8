"""Finds the transitions of the state machines, for the page on states.

The lifecycle has a table of its transitions. A circuit and the availability of Redis decide in methods, so this module
drives their machines: it applies sequences of a few actions to new machines, and notes every transition that a machine
makes, with the reason that the machine gives. The random numbers have a fixed seed, so the result is always the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from resilience.breaker._cut_offs import CutOff
from resilience.breaker._machine import CircuitMachine
from resilience.breaker._plan import OpenTime, Plan, TrialRule
from resilience.breaker._report import kind_and_facts
from resilience.breaker._rules import TripLimits, TripRules
from resilience.breaker._states import Closed, HalfOpen, Open, Permit, Ramp, Refusal, StateChange
from resilience.breaker._window import CallWindow
from resilience.lifecycle._machine import LifecycleMachine, LifecycleState
from resilience.redis._machine import Availability, Down, Up

__all__ = ("Transition", "circuit", "lifecycle", "redis")

_SEQUENCES, _ACTIONS = 400, 12
_RESET, _LEASE, _HALF_OPEN, _SLOW, _RAMP = 10.0, 5.0, 100.0, 2.0, 30.0
_LIMITS = (
    TripLimits(consecutive=2),
    TripLimits(failures=2),
    TripLimits(failure_rate=0.5, minimum=2),
    TripLimits(slow_rate=0.5, minimum=2),
)
_WORDS: dict[type, str] = {Closed: "closed", Open: "open", HalfOpen: "half-open", Ramp: "ramp"}
_METHODS = {
    LifecycleState.READY: ("started()", "lifecycle.started"),
    LifecycleState.DRAINING: ("drain()", "lifecycle.draining"),
    LifecycleState.STOPPED: ("stopped()", "lifecycle.stopped"),
}
"""The method of a `Lifecycle` that leads to each state, and the event."""


class Transition(NamedTuple):
    """A change of the state, with its cause and the event that reports it."""

    before: str
    after: str
    cause: str
    event: str = ""


class _DrivenCircuit:
    """A circuit with one rule, and the clock of its caller."""

    def __init__(self, limits: TripLimits, *, ramp: float) -> None:
        self.now = 0.0
        self.seen: set[Transition] = set()
        trials = TrialRule(permits=1, required_successes=1)
        plan = Plan(OpenTime(_RESET), trials, _LEASE, _HALF_OPEN, ramp, cut_offs=2, slow_after=_SLOW)
        self._machine = CircuitMachine(lambda _now: TripRules(limits, CallWindow(10)), plan)
        self._state = self._name()

    def _name(self) -> str:
        return _WORDS[type(self._machine.epoch)]

    def _note(self, change: StateChange | None) -> None:
        before, self._state = self._state, self._name()
        if change is not None:
            event, _ = kind_and_facts(change, self._machine, self.now, None, None)
            self.seen.add(Transition(before, self._state, change.reason, event))

    def _admit(self, patience: float) -> Permit | None:
        permit, change = self._machine.admit(self.now, patience)
        self._note(change)
        return None if isinstance(permit, Refusal) else permit

    def call(self, seconds: float, *, fails: bool) -> None:
        """Make a call of a patient caller."""
        if (permit := self._admit(float("inf"))) is not None:
            self.now += seconds
            self._note(self._machine.catch_up(self.now))
            report = self._machine.record_failure if fails else self._machine.record_success
            if fails or not hasattr(permit, "rule"):
                self._note(report(permit, self.now))
            else:
                permit.record_success()

    def cut_off(self) -> None:
        """Make a call whose caller waits for a second only."""
        if (permit := self._admit(1.0)) is not None:
            self.now += 1.0
            self._note(self._machine.record_cut_off(permit, self.now, CutOff(1.0, 1.0, 1.0)))

    def wait(self, seconds: float) -> None:
        """Let time pass, and look."""
        self.now += seconds
        self._note(self._machine.catch_up(self.now))


@cache
def circuit(*, impatient: bool) -> tuple[Transition, ...]:
    """Return the transitions that calls and time cause in circuits with each rule, with a ramp and without.

    Args:
        impatient: Whether some callers wait for less time than the service allows.
    """
    actions: list[Callable[[_DrivenCircuit], None]] = [
        lambda driven: driven.call(0.1, fails=False),
        lambda driven: driven.call(0.1, fails=True),
        lambda driven: driven.call(_SLOW + 1, fails=False),
        lambda driven: driven.wait(_RESET),
        lambda driven: driven.wait(_HALF_OPEN),
    ]
    if impatient:
        actions.append(lambda driven: driven.cut_off())
    chosen, seen = random.Random(0), set[Transition]()  # noqa: S311 - a fixed choice of actions
    for limits in _LIMITS:
        for ramp in (0.0, _RAMP):
            for _ in range(_SEQUENCES):
                driven = _DrivenCircuit(limits, ramp=ramp)
                for action in chosen.choices(actions, k=_ACTIONS):
                    action(driven)
                seen |= driven.seen
    order = list(_WORDS.values())
    return tuple(sorted(seen, key=lambda each: (order.index(each.before), order.index(each.after), each.cause)))


def lifecycle() -> tuple[Transition, ...]:
    """Return the transitions that a process can make."""
    return tuple(_changes_of_the_lifecycle())


def _changes_of_the_lifecycle() -> Iterator[Transition]:
    for before in LifecycleState:
        for after, (method, event) in _METHODS.items():
            machine = LifecycleMachine(0.0)
            machine.state = before
            if machine.become(after, 1.0) is not None:
                yield Transition(before.value, after.value, method, event)


def redis() -> tuple[Transition, ...]:
    """Return the transitions that callers cause with Redis up, and that trials cause during an outage."""
    machine, permit = Availability(), Up()
    machine.epoch = permit
    down = machine.failed(permit, 0.0, 0.0)
    if down is None:
        raise LookupError("a caller that gets no answer must start an outage")
    first = _named(permit, machine.epoch, "a caller gets no answer", "ratelimit.outage")
    machine.trial_failed(down, 1.0, 0.0)
    second = _named(down, machine.epoch, "a trial gets no answer")
    machine.trial_succeeded(down)
    return first, second, _named(down, machine.epoch, "a trial gets an answer", "ratelimit.recovered")


def _named(before: Up | Down, after: Up | Down, cause: str, event: str = "") -> Transition:
    return Transition(type(before).__name__.lower(), type(after).__name__.lower(), cause, event)
