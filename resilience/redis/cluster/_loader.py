"""Asks the nodes of a cluster, one after the other, which master serves which slots."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from resilience.redis._errors import MALFORMED, is_of_redis
from resilience.redis._exchange import exchange, packed
from resilience.redis._url import Endpoint
from resilience.redis.cluster._table import SlotRange, read_slots

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

__all__ = ("TableLoader", "not_connected")

_MOST_ASKED: Final = 5
"""Nodes that one load asks, until one of them answers."""
_QUESTION: Final = packed(b"CLUSTER", b"SLOTS")


class TableLoader:
    """Loads the table of slots from the first node that gives one. Used by one thread at a time.

    Args:
        seeds: The nodes that the URL names.
        connection_to: Returns a connection to a node, not connected yet: of the address, and the bound on each step in
            seconds.
    """

    def __init__(
        self, seeds: Sequence[Endpoint], connection_to: Callable[[Endpoint, float], AbstractConnection]
    ) -> None:
        self._seeds = tuple(seeds)
        self._connection_to = connection_to
        self._answered: Endpoint | None = None

    def load(self, known: Sequence[Endpoint], within: float) -> list[SlotRange]:
        """Return the table, blocking.

        Args:
            known: The masters of the last table.
            within: The time for each step, in seconds, shared by the nodes that are asked.

        Raises:
            ConnectionError: Of redis-py: no node gives a table.
        """
        asked, failures = self._candidates(known), []
        for endpoint in asked:
            connection = self._connection_to(endpoint, within / len(asked))
            try:
                connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
                table = read_slots(exchange(connection, (_QUESTION,))[0], endpoint)
            except Exception as error:
                if not is_of_redis(error) and not isinstance(error, MALFORMED):
                    raise
                failures.append(f"{endpoint} {str(error) or type(error).__name__}")
            else:
                self._answered = endpoint
                return table
            finally:
                connection.disconnect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        raise not_connected(f"no node of the cluster names its slots: {'; '.join(failures)}")

    def _candidates(self, known: Sequence[Endpoint]) -> list[Endpoint]:
        """Return the nodes to ask: the one that answered last, then those of the URL and known ones in turn."""
        last = [self._answered] if self._answered is not None else []
        drawn = random.Random().sample(known, len(known))  # noqa: S311 - spreads the load of a fleet
        mixed = [each for pair in itertools.zip_longest(self._seeds, drawn) for each in pair if each is not None]
        return list(dict.fromkeys([*last, *mixed]))[:_MOST_ASKED]


def not_connected(text: str) -> Exception:
    """Return redis-py's error for a cluster that cannot be reached."""
    from redis.exceptions import ConnectionError as NotConnected  # noqa: PLC0415 - an extra

    return NotConnected(text)
