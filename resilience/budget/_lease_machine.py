"""The part of a fleet's retry budget that one instance may spend.

The machine is pure: the caller passes in the time and holds the lock of the budget.

The ledger. A script on Redis (`ledger.lua`) knows the calls at their first attempt and the lease of each instance. The
limit of the fleet is `ratio` times all these calls, but at least `minimum`. The script gives a larger lease only from
the part of the limit that no instance holds.

The lease. Retries and hedged attempts in flight of an instance never exceed its lease. An instance asks in each round
of the fleet, and at once after a refusal. It would like its own part of the limit, at least one, and as much more as it
had to refuse. A part that it does not need it gives back *before* it asks: the reply may be lost, and the script may
then have leased that part to another instance already. So the ledger never has less than an instance holds, and the sum
over the instances is never above the limit that the last larger lease was given from. The limit falls with the calls in
flight; then the instances give back in their next rounds.

The end. A lease is valid for `TRUST` seconds from the moment in which it was asked for, and the ledger keeps it for
longer. So a lease that the ledger has given to another instance is valid no more, whatever the clocks show.

States. `limit` is None if there is no valid lease: before the first answer, and when Redis is away. The instance then
spends its share of a fleet of n: `ratio` of its own calls, or the n-th part of the minimum. Its next request reports
the attempts in flight as held, so the ledger leases that many less to the others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ("TRUST", "BudgetLease", "LeaseRequest", "local_limit")

TRUST = 4.5
"""Seconds for which an instance believes in its lease. The ledger keeps a record for 5 seconds."""
_ROUNDING = 1e-9
_LONG_AGO = -math.inf


class LeaseRequest(NamedTuple):
    """What an instance says in a round.

    Attributes:
        sequence: The number of the request.
        firsts: Calls at their first attempt.
        held: The lease that the instance keeps in any case.
        want: The lease that it would like.
    """

    sequence: int
    firsts: int
    held: int
    want: int


def local_limit(firsts: int, instances: int, ratio: float, minimum: int) -> float:
    """Return how many attempts an instance without a lease may have in flight: its share of the fleet's limit."""
    return max(minimum // max(1, instances), ratio * firsts)


class BudgetLease:
    """The lease of one instance."""

    __slots__ = ("_asked_at", "_refused", "_sequence", "_tokens", "_valid_until")

    def __init__(self) -> None:
        self._tokens = 0
        self._valid_until = _LONG_AGO
        self._sequence = 0
        self._asked_at = _LONG_AGO
        self._refused = 0

    def limit(self, now: float) -> int | None:
        """Return how many retries and hedged attempts may be in flight; None without a valid lease."""
        return self._tokens if now < self._valid_until else None

    def refuse(self) -> None:
        """Ask for one more the next time."""
        self._refused += 1

    def request(self, now: float, firsts: int, used: int, ratio: float) -> LeaseRequest:
        """Return the request of this round, and give back the part of the lease that is not needed.

        Args:
            now: The time in seconds.
            firsts: Calls at their first attempt.
            used: Retries and hedged attempts in flight.
            ratio: The attempts for each of `firsts`.
        """
        want = max(used + self._refused, int(ratio * firsts + _ROUNDING), 1)
        tokens = self._tokens if now < self._valid_until else 0
        self._tokens = held = max(used, min(tokens, want))
        self._refused, self._asked_at = 0, now
        self._sequence += 1
        return LeaseRequest(self._sequence, firsts, held, want)

    def end(self, firsts: int, used: int) -> LeaseRequest:
        """Return the last request, which keeps no more than the attempts in flight. There is no lease from now on."""
        self._valid_until = _LONG_AGO
        self._sequence += 1
        return LeaseRequest(self._sequence, firsts, used, used)

    def answered(self, tokens: int) -> None:
        """Take the lease that the ledger has given; a negative one if the request was overtaken."""
        if tokens >= 0:
            self._tokens, self._valid_until = tokens, self._asked_at + TRUST
