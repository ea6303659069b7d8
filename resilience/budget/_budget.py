"""The retry budget: lock, clock and events around the counts, and the budgets of the process by name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, Self, cast, runtime_checkable
from weakref import WeakValueDictionary, ref

from resilience._support.fixed import Fixed
from resilience._support.fork import renew_after_fork
from resilience._support.measured import Measured, Measurement
from resilience._support.names import fold
from resilience.budget._machine import BudgetCounts
from resilience.budget._options import BUDGET_NAME, BudgetOptions
from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter, Event
from resilience.options import CLOCK, checked

if TYPE_CHECKING:
    from resilience.budget._shared import SharedBudget
    from resilience.redis import RedisConnection

__all__ = ("CallCounter", "RetryBudget", "as_budget")


class BudgetedCall(Protocol):
    """A call that records whether a budget counts it. Both change in one step, which no interrupt divides."""

    is_counted: bool


@runtime_checkable
class CallCounter(Protocol):
    """A policy that counts its calls at its budget. A hedge beside it on the same budget counts none."""

    budget: RetryBudget | None
    counts_calls: bool


class _NamedBudgets:
    """One budget for each name; `-`, `.`, `/`, `_` and case make no difference.

    A budget whose options were set in code is kept for good: the code need not hold it. Any other is dropped with the
    last policy or toolkit that uses it.
    """

    def __init__(self) -> None:
        self._budgets: WeakValueDictionary[str, RetryBudget] = WeakValueDictionary()
        self._kept: dict[str, RetryBudget] = {}
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Replace the lock: another thread may have held it at the moment of the fork."""
        self._lock = threading.RLock()  # guards the names; re-entrant, for finalizers

    def find(self, name: str, make: Callable[[str], RetryBudget]) -> RetryBudget:
        """Return the budget of this name; `make` makes it if there is none."""
        with self._lock:
            found = self._budgets.get(fold(name))
            if found is None:
                found = self._budgets.setdefault(fold(name), make(name))
            return found

    def keep(self, name: str, budget: RetryBudget) -> None:
        """Keep the budget of this name for good."""
        self._kept[fold(name)] = budget


_NAMED = _NamedBudgets()


class RetryBudget(Fixed, Measured):
    """Limits repeated calls to a share of the calls in flight, so that retries cannot multiply an outage.

    For each call at its first attempt, `ratio` retries and hedged attempts may be in flight. `minimum` of them are
    always allowed. With a ratio of 0.2, a total outage gets at most 1.2 times the calls it would get without retries,
    apart from the minimum. The model is that of Envoy and failsafe-go: a share of the calls in flight, with a floor for
    times of little traffic.

    A name means one budget in the whole process: `RetryBudget("payments")` is the same object everywhere, and
    `budget="payments"` on a policy means it. Options given in code win over configured options
    (`RESILIENCE_BUDGET__PAYMENTS__RATIO`), and these win over the defaults. A budget without a name is shared by
    passing the object.

    Args:
        name: The name: letters, digits and `. _ - /`. None (the default) makes a budget of its own.
        ratio: Retries and hedged attempts in flight for each call at its first attempt, 0 to 1. The default is 0.2.
        minimum: Retries and hedged attempts in flight that are always allowed. The default is 3.
        shadow: Whether to report what the budget would refuse (`budget.exhausted`), and refuse nothing.
        shared: The Redis on which all instances share the budget of this name; None (the default) for a budget of this
            process. `ratio` and `minimum` then count over all instances. From its first repeated call on, this process
            leases a part of the budget in the background, and no call waits for Redis. Before the first answer, and
            while Redis is away, the instance has its share: `ratio` of its own calls, or the minimum divided by the
            live instances.
        clock: Returns the time in seconds.

    Raises:
        ConfigurationError: An option has a wrong value, or code gives one name two different values.

    Example:
        >>> from resilience import Retry, RetryBudget
        >>> budget = RetryBudget("docs-payments", ratio=0.1)
        >>> Retry(budget="docs-payments").budget is budget
        True
    """

    kind = "budget"
    options: BudgetOptions
    _assignable = frozenset({"options"})  # `configure` changes them

    def __new__(
        cls,
        name: str | None = None,
        *,
        ratio: float | None = None,
        minimum: int | None = None,
        shadow: bool | None = None,
        shared: RedisConnection | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Return the budget of this name; make it if there is none."""
        del ratio, minimum, shadow, shared, clock  # `__init__` reads them, for a known budget as well
        if name is None:
            return cls._made(None)
        return cast("Self", _NAMED.find(checked(name, "name", BUDGET_NAME), cls._made))

    def __init__(
        self,
        name: str | None = None,
        *,
        ratio: float | None = None,
        minimum: int | None = None,
        shadow: bool | None = None,
        shared: RedisConnection | None = None,
        clock: Clock | None = None,
    ) -> None:
        if clock is not None:
            self._clock = checked(clock, "clock", CLOCK)
        given = {"ratio": ratio, "minimum": minimum, "shadow": shadow, "shared": _is_shared(shared, name)}
        self._set({field: value for field, value in given.items() if value is not None})
        if shared is not None:
            if self._shared is not None and self._shared.connection is not shared:
                expected = "the connection which the budget was given before"
                raise ConfigurationError([Problem("shared", type(shared).__name__, expected)])
            self.share(shared)

    @classmethod
    def _made(cls, name: str | None) -> Self:
        budget = super().__new__(cls)
        budget.name, budget._is_named = name or cls.kind, name is not None
        budget._clock = monotonic
        budget._given = {}
        budget._configured = budget.options = BudgetOptions()
        budget.events = Emitter()
        budget._shared = None
        budget.after_fork()
        renew_after_fork(budget)
        budget._is_made = True
        return budget

    name: str
    """The name given, or `budget`."""
    events: Emitter
    _is_named: bool
    _clock: Clock
    _given: dict[str, float]
    _shared: SharedBudget | None
    _configured: BudgetOptions

    def after_fork(self) -> None:
        """Start with no counts: the calls of the parent never end in the child."""
        # Guards the counts and the options. Re-entrant: the collector may end an abandoned call in the middle of a
        # change, so no count is read and written with a call in between.
        self._lock = threading.RLock()
        self._counts = BudgetCounts()
        if self._shared is not None:
            self._shared.after_fork()

    def _set(self, values: dict[str, float]) -> None:
        BudgetOptions(**cast("dict[str, Any]", values))  # reports every bad value before anything changes
        with self._lock:
            for field, value in values.items():
                if self._given.get(field, value) != value:
                    expected = f"{self._given[field]!r}, which budget {self.name!r} was given before"
                    raise ConfigurationError([Problem(field, value, expected)])
            self._given.update(values)
            self._settle()
        if values and self._is_named:
            _NAMED.keep(self.name, self)

    def configure(self, options: BudgetOptions) -> None:
        """Use `options` in place of the defaults from now on. Options given in code stay."""
        with self._lock:
            self._configured = options
            self._settle()

    def share(self, connection: RedisConnection) -> None:
        """Share the budget with all instances that use this Redis, under its name. Sends nothing.

        The toolkit calls it for each budget with `RESILIENCE_BUDGET__<NAME>__SHARED=true`.
        """
        from resilience.budget._shared import SharedBudget  # noqa: PLC0415 - it imports the parts of Redis

        if self._shared is not None and self._shared.connection is connection:
            return
        known = ref(self)

        def lock() -> AbstractContextManager[object]:
            return nullcontext() if (budget := known()) is None else budget._lock  # noqa: SLF001 - our own

        def state() -> tuple[BudgetCounts, BudgetOptions] | None:
            return None if (budget := known()) is None else (budget._counts, budget.options)  # noqa: SLF001 - our own

        self._shared = SharedBudget(self.name, connection, self._clock, lock, state)

    def _limit(self) -> float:
        """Return how many retries and hedged attempts may be in flight now."""
        counts, options = self._counts, self.options
        if self._shared is not None:
            return self._shared.limit(counts, options)
        return counts.limit(options.ratio, options.minimum)

    def _settle(self) -> None:
        fields = {name: getattr(self._configured, name) for name in BudgetOptions.fields()}
        self.options = BudgetOptions(**{**fields, **self._given})

    @property
    def calls(self) -> int:
        """Calls in flight."""
        return self._counts.calls

    @property
    def retries(self) -> int:
        """Calls in flight that are retries."""
        return self._counts.retries

    @property
    def extras(self) -> int:
        """Hedged attempts in flight."""
        return self._counts.extras

    def enter(self) -> None:
        """Count a call as in flight. If an interrupt is raised from here, the call is not counted."""
        is_counted = False
        try:
            with self._lock:
                self._counts.calls += 1
                is_counted = True
        except BaseException:
            if is_counted:
                self.leave(retrying=False)
            raise

    def leave(self, *, retrying: bool, call: BudgetedCall | None = None) -> None:
        """Count a call as ended.

        Args:
            retrying: Whether its last attempt was a retry.
            call: The call, if it records whether the budget counts it. A second `leave` then does nothing.
        """
        with self._lock:
            if call is None:
                self._counts.leave(retrying=retrying)
            elif call.is_counted:
                self._counts.leave(retrying=retrying)
                call.is_counted = False

    def spend(self, *, retrying: bool, events: Emitter | None = None) -> bool:
        """Return whether a call may retry; if so, the budget counts it as a retry.

        Args:
            retrying: Whether the budget counts the call as a retry already.
            events: The events of the policy that asks; they report an exhaustion too.
        """
        return retrying or self._spend(events, is_extra=False)

    def spend_extra(self, *, events: Emitter | None = None) -> bool:
        """Return whether one hedged attempt may start. If so, it counts until `release_extra`."""
        return self._spend(events, is_extra=True)

    def release_extra(self) -> None:
        """Count a hedged attempt as ended."""
        with self._lock:
            self._counts.release_extra()

    def _spend(self, events: Emitter | None, *, is_extra: bool) -> bool:
        now, is_counted = self._clock(), False
        counts, options, shared = self._counts, self.options, self._shared
        if shared is not None:
            shared.join()
        try:
            with self._lock:
                has_room = counts.fits(self._limit())
                begins = not has_room and counts.refuse(now)
                if shared is not None and not has_room:
                    shared.refuse()
                if has_room or options.shadow:
                    counts.repeat(is_extra=is_extra)
                    is_counted = True
                facts = {"calls": counts.calls, "retries": counts.retries, "extras": counts.extras} if begins else {}
            if begins:
                self._report(facts | {"shadow": options.shadow}, now, events)
        except BaseException:  # an interrupt: the caller gets no answer
            if is_counted:
                with self._lock:
                    counts.undo(is_extra=is_extra)
            raise
        return is_counted

    def _report(self, facts: dict[str, int], now: float, events: Emitter | None) -> None:
        self.events.emit("budget.exhausted", self.name, now, "warning", **facts)
        if events is not None:
            events.forward(Event("budget.exhausted", self.name, "warning", now, 0, facts), self.name)

    def measure(self) -> Measurement:
        """Return the refusals, and the calls in flight with the limit of this moment."""
        counts = self._counts
        levels = {"first": counts.calls - counts.retries, "retry": counts.retries, "hedge": counts.extras}
        return Measurement(self.kind, self.name, {"refused": counts.refused}, {**levels, "limit": self._limit()})

    def describe(self) -> dict[str, Any]:
        """Return kind, name and options as plain data."""
        return {"kind": self.kind, "name": self.name, "options": self.options.as_data()}

    def snapshot(self) -> dict[str, Any]:
        """Return calls, retries and hedged attempts in flight, the limit of this moment, and the refusals so far.

        A shared budget has `lease` too: the part of the fleet's budget that this instance holds, or None without Redis.
        """
        with self._lock:
            counts, limit, shared = self._counts, self._limit(), self._shared
            return {
                "name": self.name,
                "calls": counts.calls,
                "retries": counts.retries,
                "extras": counts.extras,
                "limit": limit,
                "exhausted": not counts.fits(limit),
                "refused": counts.refused,
                **({} if shared is None else {"lease": shared.lease}),
            }

    def __repr__(self) -> str:
        return f"<RetryBudget {self.name!r} {self.retries} of {self.calls} in flight are retries, {self.extras} hedged>"


def _is_shared(connection: object, name: str | None) -> bool | None:
    """Return the option `shared` that a connection means; None if it says nothing."""
    if connection is None:
        return None
    from resilience.redis import RedisConnection as Connection  # noqa: PLC0415 - imported by services with Redis

    if not isinstance(connection, Connection):  # only its type is shown: it may hold a password
        raise ConfigurationError([Problem("shared", type(connection).__name__, "a RedisConnection, or None")])
    if name is None:
        raise ConfigurationError([Problem("name", None, "a name: instances share the budgets of one name")])
    return True


def as_budget(given: object) -> RetryBudget | None:
    """Return the budget that an option `budget` means: the object itself, the budget of a name, or None."""
    if given is None or isinstance(given, RetryBudget):
        return given
    if isinstance(given, str):
        return RetryBudget(checked(given, "budget", BUDGET_NAME))
    raise ConfigurationError([Problem("budget", given, "a RetryBudget, the name of one, or None")])
