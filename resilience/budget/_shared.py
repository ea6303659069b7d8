"""A retry budget's place in the fleet: it leases a part of the fleet's budget in rounds, off the path of the calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from resilience._support.names import fold
from resilience.budget._lease_machine import BudgetLease, LeaseRequest, local_limit
from resilience.fleet import Fleet, FleetCall
from resilience.fleet._machine import LIFETIME
from resilience.redis import LuaScript
from resilience.redis._errors import MALFORMED
from resilience.redis._exchange import Reply

if TYPE_CHECKING:
    from resilience.budget._machine import BudgetCounts
    from resilience.budget._options import BudgetOptions
    from resilience.clock import Clock
    from resilience.redis import RedisConnection

__all__ = ("SharedBudget",)

_LEDGER: Final = LuaScript(Path(__file__).with_name("ledger.lua").read_text(encoding="utf-8"))
_MILLION: Final = 1_000_000


class SharedBudget:
    """The lease of one budget. A `FleetPartner`, from the first repeated call of this process on.

    Args:
        name: The name of the budget: instances share the budgets of one name.
        connection: The Redis that the instances share.
        clock: Returns seconds that never go back.
        lock: Returns the lock of the budget's counts, which also guards the lease.
        state: Returns the counts and options of the budget, or None if it is gone.
    """

    def __init__(
        self,
        name: str,
        connection: RedisConnection,
        clock: Clock,
        lock: Callable[[], AbstractContextManager[object]],
        state: Callable[[], tuple[BudgetCounts, BudgetOptions] | None],
    ) -> None:
        self.connection = connection
        self._fleet = Fleet.of(connection)
        self._clock = clock
        self._lock = lock
        self._state = state
        tag = f"{{{connection.options.prefix}:fleet:budget:{fold(name)}}}"
        self._keys = (f"{tag}:leases".encode(), f"{tag}:ends".encode())
        self._lease = BudgetLease()
        self._has_joined = False

    def after_fork(self) -> None:
        """Begin without a lease: that of the parent is the parent's."""
        self._lease = BudgetLease()

    @property
    def lease(self) -> int | None:
        """The lease; None if there is no valid one."""
        return self._lease.limit(self._clock())

    def limit(self, counts: BudgetCounts, options: BudgetOptions) -> float:
        """Return how many retries and hedged attempts this instance may have in flight."""
        lease = self.lease
        if lease is not None:
            return lease
        firsts = counts.calls - counts.retries
        return local_limit(firsts, self._fleet.instances, options.ratio, options.minimum)

    def join(self) -> None:
        """Take part in the fleet. Does nothing if this process does so already."""
        if not (self._has_joined and self._fleet.is_open):
            self._has_joined = True
            self._fleet.join(self)

    def refuse(self) -> None:
        """Ask for a larger lease at once. Needs the lock; never blocks."""
        self._lease.refuse()
        self._fleet.nudge()

    def calls(self) -> Sequence[FleetCall]:
        """Return the request of this round."""
        with self._lock():
            state = self._state()
            if state is None:
                return ()
            counts, options = state
            firsts, used = counts.calls - counts.retries, counts.retries + counts.extras
            request = self._lease.request(self._clock(), firsts, used, options.ratio)
        return [self._call(request, options)]

    def _call(self, request: LeaseRequest, options: BudgetOptions) -> FleetCall:
        rules = (round(options.ratio * _MILLION), options.minimum, int(LIFETIME * 1000))
        return FleetCall(_LEDGER, self._keys, (self._fleet.instance, *request, *rules))

    def answered(self, replies: Sequence[Reply], /) -> None:
        """Take the lease, or go on with the present one after an error reply."""
        with self._lock():
            for reply in replies:
                try:
                    self._lease.answered(int(cast("list[int]", reply)[0]))
                except MALFORMED:  # also an error reply: it has no first part
                    continue

    def unreachable(self) -> None:
        """Go on with the present lease until it ends."""

    def leaving(self) -> Sequence[FleetCall]:
        """Give back the lease, apart from the attempts in flight."""
        with self._lock():
            state = self._state()
            if state is None:
                return ()
            counts, options = state
            request = self._lease.end(counts.calls - counts.retries, counts.retries + counts.extras)
        return [self._call(request, options)]

    def heard(self, message: bytes, /) -> None:
        """Hear nothing."""
