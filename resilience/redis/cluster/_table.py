"""Which master of a cluster serves which hash slot, as a node reports it. No I/O.

A key belongs to one of 16,384 *slots*: a checksum of the key, or of its part in braces (the hash tag). Each slot
belongs to one master. A node that is asked for a slot of another master answers MOVED and names that master. While a
slot is moved, the old master answers ASK for a key that it does not have (any more): the new one serves that one call.

Protocol: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, cast

from resilience.redis._errors import code_of
from resilience.redis._exchange import Reply
from resilience.redis._url import Endpoint

__all__ = ("SLOTS", "Redirection", "SlotRange", "ranges_of", "read_slots", "redirection_of")

SLOTS: Final = 16_384
MAX_NODES: Final = 1000
"""Masters of the largest cluster that Redis supports."""
_LONGEST_HOST: Final = 253  # of a name in the DNS
_LARGEST_PORT: Final = 65_535


class SlotRange(NamedTuple):
    """Slots that one master serves, from `first` to `last`, both included."""

    first: int
    last: int
    master: Endpoint


class Redirection(NamedTuple):
    """The answer of a node that another one has the key.

    Attributes:
        slot: The hash slot of the key.
        endpoint: The node to ask.
        is_final: Whether that node serves the slot from now on (MOVED), and not this one call only (ASK).
    """

    slot: int
    endpoint: Endpoint
    is_final: bool


def read_slots(reply: Reply, asked: Endpoint) -> list[SlotRange]:
    """Return the table in a reply to CLUSTER SLOTS.

    Args:
        reply: Rows of first slot, last slot, master, replicas.
        asked: The node that gave the reply. It may not know its own address, and names none then.

    Raises:
        ValueError: The reply is no such table, or names an address that cannot be used.
        Exception: The error reply of the node.
    """
    if isinstance(reply, Exception):
        raise reply
    if not isinstance(reply, list):
        raise TypeError(type(reply).__name__)
    found = []
    for row in cast("list[Sequence[object]]", reply):
        first, last = int(cast("int", row[0])), int(cast("int", row[1]))
        node = cast("Sequence[object]", row[2])
        host = _text(node[0]) if node[0] is not None else ""
        endpoint = Endpoint(host if host not in ("", "?") else asked.host, int(cast("int", node[1])))
        if not 0 <= first <= last < SLOTS:
            raise ValueError("names slots that do not exist")
        found.append(SlotRange(first, last, _checked(endpoint)))
    if len({each.master for each in found}) > MAX_NODES:
        raise ValueError(f"names more than {MAX_NODES} masters")
    return found


def redirection_of(error: Exception, asked: Endpoint | None) -> Redirection:
    """Return what redis-py's error for MOVED or ASK says.

    Args:
        error: The error.
        asked: The node that gave the answer, if it is known. A node may name a port of the same address.

    Raises:
        ValueError: It names a slot or an address that cannot be used.
    """
    *_code, number, address = str(error).split()  # redis-py before 6 leaves the code there
    slot = int(number)
    host, _, port = address.rpartition(":")
    if not 0 <= slot < SLOTS:
        raise ValueError("names a slot that does not exist")
    endpoint = _checked(Endpoint(host.strip("[]") or (asked.host if asked else ""), int(port)))
    return Redirection(slot, endpoint, code_of(error) == "MOVED")


def _checked(endpoint: Endpoint) -> Endpoint:
    if not 0 < len(endpoint.host) <= _LONGEST_HOST or not 0 < endpoint.port <= _LARGEST_PORT:
        raise ValueError("names an address that cannot be used")
    return endpoint


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def ranges_of(slots: Iterable[int]) -> str:
    """Return slots as text, such as `0-5460, 5462`. `slots` are in order."""
    runs: list[list[int]] = []
    for slot in slots:
        if runs and runs[-1][1] == slot - 1:
            runs[-1][1] = slot
        else:
            runs.append([slot, slot])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
