"""The retry budget: lock, clock and events around the counts."""

from __future__ import annotations

import threading
from typing import Any, Protocol, Self, runtime_checkable

from resilience._support.fork import renew_after_fork
from resilience.budget._machine import Shares
from resilience.budget._names import KNOWN
from resilience.budget._options import BUDGET_NAME, BudgetOptions
from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter
from resilience.options import CLOCK, checked

__all__ = ("CallCounter", "RetryBudget", "as_budget")


class BudgetedCall(Protocol):
    """A call that records whether a budget counts it. Both change in one step, which no interrupt divides."""

    is_counted: bool


@runtime_checkable
class CallCounter(Protocol):
    """A policy that counts its calls at its budget. A hedge beside it on the same budget counts none."""

    budget: RetryBudget | None
    counts_calls: bool


class RetryBudget:
    """For each call at its first attempt, `ratio` retries and hedged attempts may be in flight; `minimum` in any case.

    With a ratio of 0.2 even a total outage is called at most 1.2 times as often as without retries, the minimum aside.

    With a name it is the one budget of that name in this process: `RetryBudget("payments")` is the same object
    everywhere, and `budget="payments"` on a policy means it. What code says about it wins over what is configured
    (`RESILIENCE_BUDGET__PAYMENTS__RATIO`), and that over the defaults (0.2 and 3). Without a name it is one of its own,
    shared by passing the object. With `shadow=True` it reports (`budget.exhausted`) what it would refuse, and refuses
    nothing. Raises `ConfigurationError` where code gives one name two different values. The model is Envoy's and
    failsafe-go's: a share of what is in flight, with a floor for times of little traffic.
    """

    kind = "budget"
    options: BudgetOptions

    def __new__(
        cls,
        name: str | None = None,
        *,
        ratio: float | None = None,
        minimum: int | None = None,
        shadow: bool | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Return the budget of that name, made where there is none yet."""
        del ratio, minimum, shadow, clock  # `__init__` reads them, for a known budget as well
        if name is None:
            return cls._made(None)
        known: Self = KNOWN.find(checked(name, "name", BUDGET_NAME), cls._made)
        return known

    def __init__(
        self,
        name: str | None = None,  # noqa: ARG002 - `__new__` has used it
        *,
        ratio: float | None = None,
        minimum: int | None = None,
        shadow: bool | None = None,
        clock: Clock | None = None,
    ) -> None:
        if clock is not None:
            self._clock = checked(clock, "clock", CLOCK)
        said = {"ratio": ratio, "minimum": minimum, "shadow": shadow}
        self._say({field: value for field, value in said.items() if value is not None})

    @classmethod
    def _made(cls, name: str | None) -> Self:
        budget = super().__new__(cls)
        budget.name, budget._is_named = name or cls.kind, name is not None
        budget._clock = monotonic
        budget._said = {}
        budget._configured = budget.options = BudgetOptions()
        budget.events = Emitter()
        budget.after_fork()
        renew_after_fork(budget)
        return budget

    name: str
    """The name given, or `budget`."""
    events: Emitter
    _is_named: bool
    _clock: Clock
    _said: dict[str, Any]
    _configured: BudgetOptions

    def after_fork(self) -> None:
        """Forget the parent's calls: they never end here."""
        # Guards the counts and the options. Re-entrant: the collector may close an abandoned call in the midst of it,
        # so no count is read and written with a call in between.
        self._lock = threading.RLock()
        self._shares = Shares()

    def _say(self, values: dict[str, Any]) -> None:
        BudgetOptions(**values)  # every bad value is reported before anything changes
        with self._lock:
            for field, value in values.items():
                if self._said.get(field, value) != value:
                    expected = f"{self._said[field]!r}, as budget {self.name!r} was told before"
                    raise ConfigurationError([Problem(field, value, expected)])
            self._said.update(values)
            self._settle()
        if values and self._is_named:
            KNOWN.keep(self.name, self)

    def configure(self, options: BudgetOptions) -> None:
        """Take `options` in the place of the defaults, from now on; what code has said stays."""
        with self._lock:
            self._configured = options
            self._settle()

    def _settle(self) -> None:
        fields = {name: getattr(self._configured, name) for name in BudgetOptions.fields()}
        self.options = BudgetOptions(**{**fields, **self._said})

    @property
    def calls(self) -> int:
        """Calls in flight."""
        return self._shares.calls

    @property
    def retries(self) -> int:
        """Calls in flight that have been made before."""
        return self._shares.retries

    @property
    def extras(self) -> int:
        """Hedged attempts in flight."""
        return self._shares.extras

    def enter(self) -> None:
        """Count a call as in flight; where an interrupt is raised from here, it is not counted."""
        is_counted = False
        try:
            with self._lock:
                self._shares.calls += 1
                is_counted = True
        except BaseException:
            if is_counted:
                self.leave(retrying=False)
            raise

    def leave(self, *, retrying: bool, call: BudgetedCall | None = None) -> None:
        """Count a call as ended; `retrying` where its last attempt was a retry. A `call` that ended before stays so."""
        with self._lock:
            if call is None:
                self._shares.leave(retrying=retrying)
            elif call.is_counted:
                self._shares.leave(retrying=retrying)
                call.is_counted = False

    def spend(self, *, retrying: bool, tell: Emitter | None = None) -> bool:
        """Return whether a call may (go on to) retry; `retrying` where it is counted as one already.

        `tell` hears of an exhaustion too: the events of the policy that asks.
        """
        return retrying or self._spend(tell, is_extra=False)

    def spend_extra(self, *, tell: Emitter | None = None) -> bool:
        """Return whether one hedged attempt may start; where it may, it counts until `release_extra`."""
        return self._spend(tell, is_extra=True)

    def release_extra(self) -> None:
        """Count a hedged attempt as ended."""
        with self._lock:
            self._shares.release_extra()

    def _spend(self, tell: Emitter | None, *, is_extra: bool) -> bool:
        now, is_counted = self._clock(), False
        shares, options = self._shares, self.options
        try:
            with self._lock:
                has_room = shares.has_room(options.ratio, options.minimum)
                begins = not has_room and shares.refuse(now)
                if has_room or options.shadow:
                    shares.repeat(is_extra=is_extra)
                    is_counted = True
                facts = {"calls": shares.calls, "retries": shares.retries, "extras": shares.extras} if begins else {}
            if begins:
                self._report(facts | {"shadow": options.shadow}, now, tell)
        except BaseException:  # an interrupt: the caller never hears that it may
            if is_counted:
                with self._lock:
                    shares.undo(is_extra=is_extra)
            raise
        return is_counted

    def _report(self, facts: dict[str, Any], now: float, tell: Emitter | None) -> None:
        for emitter in (self.events, tell):
            if emitter is not None:
                emitter.emit("budget.exhausted", self.name, now, "warning", **facts)

    def describe(self) -> dict[str, Any]:
        """Return what this budget is and was told, as plain data."""
        return {"kind": self.kind, "name": self.name, "options": self.options.as_data()}

    def snapshot(self) -> dict[str, Any]:
        """Return the counts of this moment: calls, retries and extras in flight, the limit, and all refusals so far."""
        with self._lock:
            shares, options = self._shares, self.options
            return {
                "name": self.name,
                "calls": shares.calls,
                "retries": shares.retries,
                "extras": shares.extras,
                "limit": shares.limit(options.ratio, options.minimum),
                "exhausted": not shares.has_room(options.ratio, options.minimum),
                "refused": shares.refused,
            }

    def __repr__(self) -> str:
        return f"<RetryBudget {self.name!r} {self.retries} of {self.calls} in flight are retries, {self.extras} hedged>"


def as_budget(given: object) -> RetryBudget | None:
    """Return the budget an option called `budget` means: an object, the name of one, or None."""
    if given is None or isinstance(given, RetryBudget):
        return given
    if isinstance(given, str):
        return RetryBudget(checked(given, "budget", BUDGET_NAME))
    raise ConfigurationError([Problem("budget", given, "a RetryBudget, the name of one, or None")])
