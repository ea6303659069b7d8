"""The fleet of a connection: the object that parts with shared state use."""

from __future__ import annotations

import functools
import logging
import os
import random
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast
from weakref import ref

from resilience._support.fork import renew_after_fork
from resilience._support.measured import Measured, Measurement
from resilience.clock import Clock, monotonic
from resilience.events import Emitter
from resilience.fleet import _machine
from resilience.fleet._listener import listen
from resilience.fleet._membership import Membership
from resilience.fleet._partner import FleetCall, FleetPartner, Partners, asked, calls_of
from resilience.fleet._wire import PATIENCE, channel_of
from resilience.redis import LuaScript
from resilience.redis._errors import MALFORMED, is_about_one_key, is_of_redis, unreadable
from resilience.redis._exchange import Reply

if TYPE_CHECKING:
    from resilience.redis import RedisConnection

__all__ = ("Fleet",)

_log = logging.getLogger("resilience")

_HEARTBEAT: Final = LuaScript(Path(__file__).with_name("heartbeat.lua").read_text(encoding="utf-8"))
_MOST_DEAD: Final = 100
"""Dead instances that one beat removes."""
_MOST_MESSAGES: Final = 1000
"""Messages that wait for a round. They only hasten; the oldest ones are dropped."""


class Fleet(Measured):
    """The instances of a service that share one Redis. There is one for each connection: `Fleet.of(connection)`.

    While at least one partner has joined, one thread makes a *round* each 0.9 seconds, 10 % sooner or later: in one
    round trip, on a connection of its own, it counts the live instances and makes the calls of all partners. A second
    thread listens for messages, which only hasten the work of the next round. No call of the program waits for either
    thread. An instance that ends without `close` is counted for 5 more seconds. A forked child is an instance of its
    own: its first round is due 0.9 seconds after the fork, or when it is nudged. `events` emits `fleet.lost` and
    `fleet.found`, once each time.

    Args:
        connection: The Redis to use.
        clock: Returns seconds that never go back.

    Example:
        >>> from resilience.fleet import Fleet
        >>> from resilience.redis import RedisConnection
        >>> fleet = Fleet.of(RedisConnection.from_url("redis://localhost:6379/0"))
        >>> fleet.instances
        1
    """

    def __init__(self, connection: RedisConnection, *, clock: Clock = monotonic) -> None:
        self._connection = connection
        self._prefix = connection.options.prefix
        self._clock = clock
        self.events = Emitter()
        self._partners = Partners()
        self._lock = threading.RLock()
        self._inherited: list[Membership] = []
        self._begin()
        renew_after_fork(self)

    @classmethod
    def of(cls, connection: RedisConnection) -> Fleet:
        """Return the fleet of `connection`, made at the first use. It lives as long as the connection."""
        known = connection.companions.get(Fleet)
        if known is None:  # `setdefault` is one step: of two threads that come first, both get the same fleet
            known = connection.companions.setdefault(Fleet, cls(connection))
        return cast("Fleet", known)

    @classmethod
    def known(cls, connection: RedisConnection) -> Fleet | None:
        """Return the fleet of `connection` if it was made."""
        return cast("Fleet | None", connection.companions.get(Fleet))

    def _begin(self) -> None:
        self.instance = os.urandom(8).hex()
        # Not the module's own: a thread of ours must not take numbers from a program that has seeded it. A child needs
        # other numbers than its parent.
        self._random: Callable[[], float] = random.Random().random  # noqa: S311 - jitter
        self._beat = _machine.Beat(self._clock())
        self._outbox: deque[tuple[str, bytes]] = deque(maxlen=_MOST_MESSAGES)
        self._membership: Membership | None = None

    def after_fork(self) -> None:
        """Become another instance, without the threads and without the connections of the parent."""
        was_member = self._membership
        if was_member is not None:
            self._inherited.append(was_member)  # never closed: the child shares its socket with the parent
        self._lock = threading.RLock()
        self._partners.after_fork()
        self._begin()
        if was_member is not None and self._partners.alive():
            # A child that executes another program, or ends at once, never becomes an instance.
            self._beat.postpone()
            self._start()

    @property
    def instances(self) -> int:
        """How many instances are alive, this one included, as last counted; 1 before the first count.

        A lower count is believed after 2.5 seconds, a higher one at once. While Redis is away, the last count stands.
        """
        return self._beat.instances

    @property
    def is_open(self) -> bool:
        """Whether this instance takes part in the fleet: a partner has joined since the last `close`."""
        return self._membership is not None

    @property
    def is_lost(self) -> bool:
        """Whether Redis did not answer in the last round."""
        return self._beat.is_lost

    def join(self, partner: FleetPartner, channel: str | None = None) -> None:
        """Ask `partner` in each round from now on, and make a round now. Joining again changes only the channel.

        Args:
            partner: The partner, kept by a weak reference: it leaves when it is dropped.
            channel: The name of the channel whose messages the partner hears, without the prefix; None for none.
        """
        is_new = self._partners.add(partner, channel)
        if is_new or self._membership is None:
            self._start()
        if is_new:
            self.nudge()

    def leave(self, partner: FleetPartner) -> None:
        """Ask `partner` no more. Without a partner the instance leaves the fleet."""
        self._partners.remove(partner)
        self.nudge()

    def nudge(self) -> None:
        """Make a round now instead of at the next beat. Callable from any thread; never blocks."""
        membership = self._membership
        if membership is not None:
            membership.nudge()

    def publish(self, channel: str, message: bytes) -> None:
        """Send `message` to the partners on `channel`, in all instances, in the next round. Never blocks.

        A message is dropped if Redis does not answer in that round.
        """
        self._outbox.append((channel, message))

    def close(self) -> None:
        """Leave the fleet: the others count one less at their next rounds. Blocks for `options.timeout` at most.

        A partner that joins again opens the fleet again.
        """
        with self._lock:
            membership, self._membership = self._membership, None
        if membership is not None:
            membership.is_closing = True
            membership.wake()
            membership.closed.wait(self._connection.options.timeout)

    def _start(self) -> None:
        with self._lock:
            if self._membership is not None or sys.is_finalizing():
                return
            membership = self._membership = Membership()
            listening = functools.partial(listen, ref(self), membership)
            if (reason := membership.begin(self, listening)) is not None:
                self._membership = None  # the next partner that joins tries again
                _log.warning("the fleet has no thread, so nothing is shared: %s", reason)

    def measure(self) -> Measurement:
        """Return the number of live instances; 0 if this one does not take part."""
        return Measurement("fleet", self._prefix, levels={"instances": self.instances if self.is_open else 0})

    def snapshot(self) -> dict[str, object]:
        """Return the id of this instance, the number of live instances, and whether Redis is lost."""
        return {"instance": self.instance, "instances": self.instances, "is_lost": self.is_lost}

    # --- called by the threads of the membership ---

    def advance(self, membership: Membership) -> float | None:
        """Make a round if it is due; return the seconds to wait for the next one, None at the end."""
        beat = self._beat
        if membership.is_closing or self._has_ended(membership):
            membership.is_closing = True
            self._leave(membership)
            return None
        if membership.is_nudged:
            membership.is_nudged = False
            beat.nudge(self._clock())
        if (pause := beat.wait(self._clock())) > 0:
            return pause
        self._make_round(membership)
        return beat.wait(self._clock())

    def _has_ended(self, membership: Membership) -> bool:
        """Whether no partner is left, or the fleet has another membership."""
        if self._partners.alive():
            return self._membership is not membership
        with self._lock:  # `join` adds its partner before it looks for the membership
            if self._membership is membership and not self._partners.alive():
                self._membership = None
        return self._membership is not membership

    def _make_round(self, membership: Membership) -> None:
        partners = self._partners.alive()
        made = [(partner, calls_of(partner)) for partner in partners]
        calls = [self._heartbeat(_machine.LIFETIME), *(call for _, some in made for call in some)]
        patience = max(PATIENCE, self._connection.options.timeout)
        try:
            replies = membership.wire.run(self._connection, calls, self._messages(membership), patience)
            count = self._count(replies[0])
        except Exception as error:  # noqa: BLE001 - the thread goes on
            if not is_of_redis(error):
                _log.exception("a round of the fleet failed")
            self._failed(membership, partners, error)
            return
        now = self._clock()
        if self._beat.answered(now, self._random(), count):
            self.events.emit("fleet.found", self._prefix, now, instances=self.instances)
        start = 1
        for partner, some in made:
            own = replies[start : start + len(some)]
            start += len(some)
            asked(partner, functools.partial(partner.answered, own), None)

    def _failed(self, membership: Membership, partners: list[FleetPartner], error: Exception) -> None:
        membership.wire.close()
        now = self._clock()
        if self._beat.failed(now, self._random()):
            facts = {"error": type(error).__name__, "instances": self.instances}
            self.events.emit("fleet.lost", self._prefix, now, "warning", **facts)
        for partner in partners:
            asked(partner, partner.unreachable, None)

    def _count(self, reply: Reply) -> int:
        """Return the count of a heartbeat. An error about its key leaves the count as it is."""
        if isinstance(reply, Exception):
            if is_about_one_key(reply):
                return self._beat.instances
            raise reply
        try:
            return int(cast("int", reply))
        except MALFORMED as error:
            raise unreadable(error) from error

    def _leave(self, membership: Membership) -> None:
        """Make the last round of this instance, unless Redis is lost or the instance has joined again."""
        if self._beat.is_lost or self._membership is not None:
            return
        patience = self._connection.options.timeout
        calls = [self._heartbeat(0)]
        for partner in self._partners.alive():
            calls += asked(partner, partner.leaving, ())
        try:
            membership.wire.run(self._connection, calls, self._messages(membership), patience)
        except Exception as error:
            if not is_of_redis(error):
                raise

    def _heartbeat(self, lifetime: float) -> FleetCall:
        key = f"{{{self._prefix}:fleet}}:instances".encode()
        return FleetCall(_HEARTBEAT, (key,), (self.instance, int(lifetime * 1000), _MOST_DEAD))

    def _messages(self, membership: Membership) -> list[tuple[str, bytes]]:
        """Take the messages that wait, and one for our own listener if it has to look for new channels."""
        outbox = self._outbox
        messages = [(self.channel(name), message) for name, message in (outbox.popleft() for _ in range(len(outbox)))]
        if membership.is_closing or membership.listened_to != self._partners.channels():
            messages.append((self.channel(self.instance), b""))
        return messages

    def channel(self, name: str) -> str:
        """Return the full name of a channel."""
        return channel_of(self._connection, name)

    @property
    def partners(self) -> Partners:
        """The partners, for the listening thread."""
        return self._partners

    @property
    def connection(self) -> RedisConnection:
        """The connection, for the listening thread."""
        return self._connection

    def __repr__(self) -> str:
        return f"<Fleet {self._prefix!r} instance {self.instance}, {self.instances} alive>"
