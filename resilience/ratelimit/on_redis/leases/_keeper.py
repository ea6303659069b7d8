"""Returns leases in the background: those that are idle in the rounds of the fleet, and all when the connection closes.

So a lease that no call spends goes back without a call, and a fully spent one is reported before the server would take
it for unspent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast
from weakref import ref

from resilience._support.fork import renew_after_fork
from resilience.fleet import Fleet, FleetCall
from resilience.ratelimit.on_redis.leases._codec import LEASE
from resilience.redis._errors import is_of_redis
from resilience.redis._pool_machine import NotAskedError

if TYPE_CHECKING:
    from typing import Protocol

    from redis.connection import AbstractConnection

    from resilience.ratelimit.on_redis.leases._table import Renewing
    from resilience.redis import RedisConnection
    from resilience.redis._exchange import Reply
    from resilience.redis._script import ScriptCall

    class LeaseHolder(Protocol):
        """The leases of one limiter."""

        def idle(self, most: int, /) -> list[Renewing]: ...
        def all(self) -> list[Renewing]: ...
        def encode(self, renewing: Renewing, /) -> ScriptCall: ...
        def settle(self, renewing: Renewing, reply: Reply, /) -> None: ...


__all__ = ("LeaseKeeper",)

_MOST_IN_A_ROUND = 500
_AT_ONCE = 100


class LeaseKeeper:
    """Keeps the leases of all limiters of a connection from ending unnoticed. A `FleetPartner`.

    Args:
        connection: The Redis that has leased the tokens.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._fleet = Fleet.of(connection)
        self._holders: list[ref[LeaseHolder]] = []
        self._has_joined = False
        self.after_fork()
        renew_after_fork(self)

    @classmethod
    def of(cls, connection: RedisConnection) -> LeaseKeeper:
        """Return the keeper of `connection`, made at the first use."""
        known = connection.companions.get(LeaseKeeper)
        if known is None:  # `setdefault` is one step: of two threads that come first, both get the same keeper
            known = connection.companions.setdefault(LeaseKeeper, cls(connection))
        return cast("LeaseKeeper", known)

    def after_fork(self) -> None:
        """Forget the round of the parent."""
        self._asked: list[tuple[LeaseHolder, Renewing]] = []

    def add(self, holder: LeaseHolder) -> None:
        """Look after the leases of `holder`, for as long as it lives."""
        self._holders.append(ref(holder, self._holders.remove))

    def _alive(self) -> list[LeaseHolder]:
        return [holder for known in list(self._holders) if (holder := known()) is not None]

    def join(self) -> None:
        """Have this instance counted, and the rounds made. Does nothing while that is so. Never blocks."""
        if not (self._has_joined and self._fleet.is_open):
            self._has_joined = True
            self._fleet.join(self)

    @property
    def instances(self) -> int:
        """The number of live instances."""
        return self._fleet.instances

    def calls(self) -> Sequence[FleetCall]:
        """Return the script calls that return idle leases."""
        self._asked = []
        for holder in self._alive():
            room = _MOST_IN_A_ROUND - len(self._asked)
            self._asked += [(holder, renewing) for renewing in holder.idle(room)]
        return [FleetCall(LEASE, *_frozen(holder.encode(renewing))) for holder, renewing in self._asked]

    def answered(self, replies: Sequence[Reply], /) -> None:
        """Take the answers."""
        asked, self._asked = self._asked, []
        for (holder, renewing), reply in zip(asked, replies, strict=True):
            _settle(holder, renewing, reply)

    def unreachable(self) -> None:
        """Give the round up. What was to go back is lost until the server takes the leases back."""
        asked, self._asked = self._asked, []
        for _, renewing in asked:
            renewing.renewal.end()

    def leaving(self) -> Sequence[FleetCall]:
        """Give back nothing in the round: `close` does it."""
        return ()

    def heard(self, message: bytes, /) -> None:
        """Hear nothing."""

    def close(self) -> None:
        """Return all leases. Blocks for the connection's timeout at most; leases beyond that return by their end."""
        asked = [(holder, renewing) for holder in self._alive() for renewing in holder.all()]
        since = time.monotonic()
        try:
            while asked and time.monotonic() - since < self._connection.options.timeout:
                some, asked = asked[:_AT_ONCE], asked[_AT_ONCE:]
                self._return(some)
        finally:
            for _, renewing in asked:
                renewing.renewal.end()

    def _return(self, some: list[tuple[LeaseHolder, Renewing]]) -> None:
        calls = [holder.encode(renewing) for holder, renewing in some]

        def use(connection: AbstractConnection) -> list[Reply]:
            return LEASE.call(connection, calls)

        try:
            for (holder, renewing), reply in zip(some, self._connection.pool.run(use), strict=True):
                _settle(holder, renewing, reply)
        except Exception as error:
            if not isinstance(error, NotAskedError) and not is_of_redis(error):
                raise
        finally:
            for _, renewing in some:
                renewing.renewal.end()


def _settle(holder: LeaseHolder, renewing: Renewing, reply: Reply) -> None:
    if isinstance(reply, Exception):
        renewing.renewal.end()
    else:
        holder.settle(renewing, reply)


def _frozen(call: ScriptCall) -> tuple[tuple[bytes, ...], tuple[bytes | int | str, ...]]:
    keys, arguments = call
    return keys, tuple(arguments)
