"""Tokens that an instance leases from a bucket, and the demand that says how many. No clock, lock or I/O.

The lease. An instance takes some tokens from the bucket on Redis in one call, and spends them without Redis. The bucket
has paid them when they are leased. So over any time t, all instances together spend at most `rate x t + burst`, and the
tokens that were leased when the time began. A lease is a list with an item for each token. `list.pop` is one step to
all other threads, so a token is spent once without a lock.

The size. A lease covers the demand of one second (`HORIZON`): an exponential mean of the tokens that calls asked for,
refused calls included. It is never larger than the option says, than the burst, or than twice the share of this
instance in one second of the rate. So all leases of a fleet hold at most two seconds of the rate. A key with a demand
below two tokens takes no lease: each of its calls asks the server.

Renewal. One caller asks for more when a quarter of the lease is left; the others spend the rest meanwhile. A call
reports the unspent tokens: the instance keeps some of them, and gives back the part that is more than its demand. Each
call has a number. The server answers each number once, and keeps the number with the lease. If an answer is lost, the
next call names an older number, and the server takes back the tokens of that answer. So a lost answer loses no token.

Refusals. An answer with fewer tokens than were wanted means that the bucket is empty. The instance then asks no more
until the wanted tokens may have come back for all instances, for `PAUSE` at most, or until the server has the first one
again, for `LONGEST_PAUSE` at most. It refuses calls meanwhile. So a flood on a refused key does not reach the server.

The end. An instance spends a lease for `LIFETIME` from the moment in which it asked for the lease, on its own clock.
The server keeps the lease for `KEPT` from the moment of the answer, which is longer. In between, the instance reports
once more. A lease that was not renewed returns to the bucket: the next call about a lease of this key finds it. The
server knows the spent tokens only from reports. So the tokens that a dead instance has spent since its last report
return as well, and are admitted twice: at most one lease for each instance that dies. An instance that was only late
reports its spent tokens, and the bucket pays them again.

States. `renewal` is the call under way, at most one for each key. A renewal that is older than the patience of the
table was abandoned: its event loop was closed, or an interrupt came before it was sent. The lock of the table guards
the begin of a renewal, its answer, and the keys.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from resilience.ratelimit._machine import Quota

__all__ = ("KEPT", "LIFETIME", "Demand", "LeaseRenewal", "LeaseRule", "TokenLease")

HORIZON = 1.0
"""Seconds of demand that a lease covers."""
LIFETIME = 2.0
"""Seconds for which an instance spends a lease, from the moment in which it was asked for."""
KEPT = 3.0
"""Seconds after which the server takes a lease back, from the moment of the answer."""
PAUSE = 0.25
"""Seconds for which an instance waits at most until a whole lease may have come back."""
LONGEST_PAUSE = 1.0
"""Seconds after which an instance asks again in any case."""
_FEWEST = 2
"""The smallest lease. A single token would save no call."""
_SHARE = 2.0
_FORGOTTEN = 0.5
"""The demand below which a key is not worth remembering."""


class Demand(NamedTuple):
    """The tokens that calls of one key ask for.

    Attributes:
        level: Tokens in a horizon, as a mean in which recent ones count more.
        counted_at: When the mean was last computed.
    """

    level: float
    counted_at: float

    def after(self, asked: int, now: float) -> Demand:
        """Return the demand after `asked` more tokens. Tokens asked for at one moment add up."""
        passed = now - self.counted_at
        if passed <= 0:
            return Demand(self.level + asked, self.counted_at)
        kept = math.exp(-passed / HORIZON)
        return Demand(self.level * kept + asked * (HORIZON / passed) * (1 - kept), now)


class LeaseRule(NamedTuple):
    """How large a lease may be.

    Attributes:
        quota: The bucket.
        most: The largest lease.
    """

    quota: Quota
    most: int

    def size(self, level: float, instances: int) -> int:
        """Return the tokens to hold for a demand of `level` in each horizon; 0 if no lease is of use."""
        share = _SHARE * HORIZON / self.quota.interval / max(1, instances)
        size = math.floor(min(level, self.most, self.quota.burst, share) + 1e-9)
        return size if size >= _FEWEST else 0

    def pause(self, wanted: int, missing: float, instances: int, jitter: float) -> float:
        """Return how many seconds an instance asks no more, after an answer with fewer tokens than it wanted.

        Args:
            wanted: The tokens that it wanted.
            missing: Seconds until the bucket is full.
            instances: Live instances, which ask as well.
            jitter: From 0 to 1: where the pause lies between its shortest and its longest.
        """
        quota = self.quota
        first = max(0.0, missing + quota.interval - quota.capacity)
        whole = min(PAUSE, (wanted - 1) * quota.interval * max(1, instances)) * (0.5 + jitter)
        return max(min(first, LONGEST_PAUSE), whole)


class LeaseRenewal:
    """One call about a lease: from its beginning until its answer, or until there will be none.

    Attributes:
        lease: The lease that is renewed.
        held: The number of the last call that was answered.
        number: The number of this call.
        count: Tokens of the lease as that answer has left them.
        kept: Unspent tokens that the instance keeps.
        back: Unspent tokens that it gives back.
        wanted: Tokens that it asks for.
        sent_at: When it began.
        is_ended: Whether it was answered, or has failed.
    """

    __slots__ = ("_waiting", "back", "count", "held", "is_ended", "kept", "lease", "number", "sent_at", "wanted")

    def __init__(self, lease: TokenLease, number: int, back: int, wanted: int, now: float) -> None:
        self.lease = lease
        self.held, self.count = lease.number, lease.count
        self.number, self.kept, self.back, self.wanted = number, len(lease.tokens), back, wanted
        self.sent_at = now
        self.is_ended = False
        self._waiting: deque[Callable[[], object]] = deque()

    @classmethod
    def ended(cls, lease: TokenLease, now: float) -> LeaseRenewal:
        """Return a renewal that has just ended."""
        renewal = cls(lease, 0, 0, 0, now)
        renewal.is_ended = True
        return renewal

    def notify(self, wake: Callable[[], object]) -> None:
        """Call `wake` at the end; at once if the renewal has ended."""
        self._waiting.append(wake)
        if self.is_ended:
            self._wake_all()

    def end(self) -> None:
        """End without an answer, unless there was one. The tokens that were given back are gone."""
        if self.lease.renewal is self:
            self.lease.renewal = None
        self.is_ended = True
        self._wake_all()

    def _wake_all(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                with contextlib.suppress(RuntimeError):  # its event loop was closed
                    self._waiting.popleft()()


class TokenLease:
    """The leased tokens of one key.

    Attributes:
        tokens: An item for each unspent token.
        ends_at: From when on they may not be spent.
        low: A caller asks for more when no more tokens than this are left. Below 0 while no caller should.
        full_at: When the bucket on Redis is full if nothing else is taken, as the last answer says. The leased tokens
            count as taken.
        ask_at: Until when calls are refused without asking the server.
        number: The number of the last call that was answered.
        count: Tokens of the lease as that answer has left them.
        renewal: The call under way.
        is_dropped: Whether the table has dropped the key: there are no renewals any more.
    """

    __slots__ = (
        "_asked",
        "_counted_tokens",
        "_demand",
        "ask_at",
        "count",
        "ends_at",
        "full_at",
        "is_dropped",
        "low",
        "number",
        "renewal",
        "tokens",
    )

    def __init__(self, now: float) -> None:
        self.tokens: list[None] = []
        self.ends_at = self.full_at = self.ask_at = now
        self.low = -1
        self.number = self.count = 0
        self.renewal: LeaseRenewal | None = None
        self.is_dropped = False
        self._demand = Demand(0.0, now)
        self._asked = self._counted_tokens = 0

    def spend(self, cost: int, now: float) -> bool:
        """Spend `cost` tokens, or none; returns whether they were spent."""
        if now >= self.ends_at:
            return False
        taken = self._take(cost)
        if taken == cost:
            return True
        self.tokens.extend([None] * taken)
        return False

    def _take(self, most: int) -> int:
        """Take at most `most` tokens, one by one: other threads spend meanwhile."""
        taken = 0
        with contextlib.suppress(IndexError):
            while taken < most:
                self.tokens.pop()
                taken += 1
        return taken

    def put_back(self, cost: int, now: float) -> bool:
        """Take spent tokens back: their call did not take place. Returns False if the lease has ended."""
        if now >= self.ends_at or self.is_dropped:
            return False
        self.tokens.extend([None] * cost)
        return True

    def ask(self, tokens: int) -> None:
        """Count tokens that a call asks for and that no lease has paid."""
        self._asked += tokens

    def level(self, now: float) -> float:
        """Return the demand: tokens in a horizon."""
        left = len(self.tokens)
        self._demand = self._demand.after(max(0, self._asked + self._counted_tokens - left), now)
        self._asked, self._counted_tokens = 0, left
        return self._demand.level

    def may_begin(self, now: float, patience: float) -> bool:
        """Whether a renewal may begin: there is none under way that is younger than `patience` seconds."""
        under_way = self.renewal
        return not self.is_dropped and (under_way is None or now - under_way.sent_at > patience)

    def begin(self, number: int, size: int, now: float) -> LeaseRenewal | None:
        """Begin a renewal, after which the instance holds `size` tokens; None if there would be nothing to say.

        Args:
            number: The number of the call, larger than all before it.
            size: Tokens to hold; more than that are given back.
            now: The present time.
        """
        left = len(self.tokens)
        back = self._take(left - size) if left > size else 0
        wanted = max(0, size - left)
        self._counted_tokens -= back
        self.low = -1
        if not (back or wanted or self.count):
            return None
        self.renewal = LeaseRenewal(self, number, back, wanted, now)
        return self.renewal

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to give back or to report."""
        return not (self.tokens or self.count or self.renewal)

    def is_idle(self, now: float) -> bool:
        """Whether the lease should go back: it has ended, or nothing of it was spent in the last horizon."""
        if now >= self.ends_at:
            return self.count > 0 or bool(self.tokens)
        is_untouched = bool(self.tokens) and len(self.tokens) == self._counted_tokens
        return is_untouched and now - self._demand.counted_at >= HORIZON / 2

    def is_forgettable(self, now: float) -> bool:
        """Whether a new lease in the place of this one would be the same."""
        level = self.level(now)
        return self.is_empty and now >= self.ask_at and level < _FORGOTTEN

    def answered(self, renewal: LeaseRenewal, granted: int, missing: float, pause: float, now: float) -> None:
        """Take the answer to a renewal. A renewal that was given up changes nothing: the server takes its grant back.

        Args:
            renewal: The call.
            granted: Tokens that the server has granted.
            missing: Seconds until the bucket is full.
            pause: Seconds for which to ask no more, if these are fewer tokens than it wanted.
            now: The present time.
        """
        if self.renewal is not renewal or self.is_dropped:
            return
        self.level(now)
        self.number, self.count = renewal.number, renewal.kept + granted
        self.tokens.extend([None] * granted)
        self._counted_tokens += granted
        self.full_at = renewal.sent_at + missing
        self.ends_at = renewal.sent_at + LIFETIME
        if granted == renewal.wanted:
            self.low = len(self.tokens) // 4 or -1
        else:
            self.ask_at = now + pause
