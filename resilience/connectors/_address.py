"""The server of a connector: its name, its port, and the time to reach it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias, TypeVar

from resilience.clock import monotonic
from resilience.options import Duration, Text, Whole, checked

__all__ = ("Address", "Length", "left", "shares")

A = TypeVar("A")

Length: TypeAlias = "float | str | timedelta"
"""Seconds, a `timedelta`, or text such as `"250ms"`."""

_HOST = Text("a host name or an IP address", pattern=r"[^\s/]+", longest=255)
_PORT = Whole(1, 65_535)
_LIMIT = Duration(above=True, usual=60)
_SHORTEST = 0.01


@dataclass(frozen=True)
class Address:
    """A server, and the longest time for connecting to it, in seconds."""

    host: str
    port: int
    connect_timeout: float

    @classmethod
    def of(cls, host: str, port: int, connect_timeout: Length) -> Address:
        """Return the address with checked values.

        Raises:
            ConfigurationError: A value has the wrong type, or is outside its limits.
        """
        timeout = checked(connect_timeout, "connect_timeout", _LIMIT)
        return cls(checked(host, "host", _HOST), checked(port, "port", _PORT), timeout)


def shares(addresses: Sequence[A], until: float) -> Iterator[tuple[A, float]]:
    """Yield each address of a host with the time for it: an equal share of the time that is left until `until`.

    So an address that does not answer leaves time for the others, as in Go's `net.Dialer`.
    """
    for index, address in enumerate(addresses):
        yield address, left(until, len(addresses) - index)


def left(until: float, parts: int = 1) -> float:
    """Return the seconds until a moment, or an equal part of them. It is never 0, which is no limit but a mode."""
    return max(_SHORTEST, (until - monotonic()) / parts)
