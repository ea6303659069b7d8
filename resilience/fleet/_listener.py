"""The listening thread: it hears the messages of all instances, and hands them to the partners.

It subscribes to the channels of all partners, and to one of its own: the round thread publishes there if the partners
have new channels. So one thread alone uses the connection, which a TLS connection needs, and nothing else wakes it.
"""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from resilience.fleet._machine import FIRST_BACKOFF, MAX_BACKOFF
from resilience.fleet._partner import Partners, asked
from resilience.fleet._wire import PATIENCE, disconnect
from resilience.redis._errors import MALFORMED, is_of_redis
from resilience.redis._exchange import limit, packed

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from resilience.fleet._membership import Membership
    from resilience.redis import RedisConnection

__all__ = ("Audience", "listen")

_log = logging.getLogger("resilience")

_QUIET: Final = 5.0
"""Seconds without a message after which the server is asked whether it is still there."""


class Audience(Protocol):
    """The fleet as its listening thread sees it."""

    instance: str

    @property
    def connection(self) -> RedisConnection:
        """The connection that makes the one to listen on."""
        ...

    @property
    def partners(self) -> Partners:
        """The partners, with their channels."""
        ...

    def channel(self, name: str, /) -> str:
        """Return the full name of a channel."""
        ...


def listen(known: Callable[[], Audience | None], membership: Membership) -> None:
    """Hear messages until the membership ends. The body of the listening thread."""
    backoff, jitter = 0.0, random.Random().random  # noqa: S311 - jitter, and no number of a program that has seeded
    while not membership.closed.wait(backoff * jitter()):
        fleet = known()
        if fleet is None:
            return
        link = None
        try:
            link = fleet.connection.new_connection()
            del fleet
            backoff = 0.0
            _follow(link, known, membership)
        except Exception as error:  # noqa: BLE001 - the thread goes on
            if not (is_of_redis(error) or isinstance(error, MALFORMED)):
                _log.exception("the fleet cannot listen")
        finally:
            membership.listened_to = frozenset()
            if link is not None:
                disconnect(link)
        backoff = min(MAX_BACKOFF, 2 * backoff or FIRST_BACKOFF)


def _follow(link: AbstractConnection, known: Callable[[], Audience | None], membership: Membership) -> None:
    """Subscribe, and deliver each message until the membership ends or the connection does."""
    subscription = Subscription(link)
    is_asked = False
    while not membership.is_closing:
        fleet = known()
        if fleet is None:
            return
        names = frozenset(fleet.partners.channels())
        subscription.subscribe({fleet.channel(name) for name in (*names, fleet.instance)})
        membership.listened_to = names
        del fleet
        if not link.can_read(PATIENCE if is_asked else _QUIET):
            if is_asked:
                return  # silent
            is_asked = True
            subscription.ping()
            continue
        is_asked = False
        subscription.read(lambda channel, message: _deliver(known, channel, message))


def _deliver(known: Callable[[], Audience | None], channel: str, message: bytes) -> None:
    fleet = known()
    if fleet is None:
        return
    name = channel.removeprefix(fleet.channel(""))
    for partner in fleet.partners.on(name):
        asked(partner, functools.partial(partner.heard, message), None)


class Subscription:
    """The channels to which one connection is subscribed."""

    def __init__(self, link: AbstractConnection) -> None:
        self._link = link
        self._channels: set[str] = set()
        limit(link, PATIENCE)

    def subscribe(self, channels: set[str]) -> None:
        """Be subscribed to `channels`, and to no other."""
        commands = [packed(b"SUBSCRIBE", channel.encode()) for channel in sorted(channels - self._channels)]
        commands += [packed(b"UNSUBSCRIBE", channel.encode()) for channel in sorted(self._channels - channels)]
        if commands:
            self._link.send_packed_command(commands)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        self._channels = set(channels)

    def ping(self) -> None:
        """Ask the server for a reply, which `read` then receives."""
        self._link.send_packed_command(packed(b"PING"))  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    def read(self, deliver: Callable[[str, bytes], None]) -> None:
        """Read one reply, and deliver it if it is a message."""
        match self._link.read_response():
            case [b"message", bytes(channel), bytes(message)]:
                deliver(channel.decode("utf-8", "replace"), message)
            case ["message", str(channel), str(message)]:  # `decode_responses` in the URL
                deliver(channel, message.encode("utf-8", "surrogateescape"))
