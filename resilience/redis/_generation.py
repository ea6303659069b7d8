"""Connections of one age: all that were made before an outage are replaced after it.

A pool keeps connections to the address that a name had when they were made. After a failover by name these lead to the
demoted server for as long as it lives. So an outage ends a generation: each older connection is closed when a caller
takes it from the pool, and the new one resolves the name again. A connection in use is not touched.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from resilience.redis._errors import CLUSTER

__all__ = ("Age", "Generation")

_log = logging.getLogger("resilience")


class Age:
    """The connections made between two outages; compared by identity."""

    __slots__ = ("is_cluster_node", "is_server_asked")

    def __init__(self) -> None:
        self.is_server_asked = False
        self.is_cluster_node = False


class Generation:
    """The age of the connections that may be used. No lock: each step is one assignment."""

    def __init__(self) -> None:
        self.current = Age()
        self._is_reported = False

    def end(self) -> None:
        """Let no connection that exists be used again."""
        self.current = Age()

    def claim_question(self) -> bool:
        """Whether the caller is the one that asks the server of this age for its mode."""
        age = self.current
        is_first, age.is_server_asked = not age.is_server_asked, True
        return is_first

    def note_server(self, hello: Any) -> None:
        """Read the reply to HELLO: names and values in turn (RESP 2). Warns about a node of a cluster, once."""
        if not isinstance(hello, Sequence) or isinstance(hello, str | bytes):
            return
        facts = dict(zip(map(_text, hello[::2]), map(_text, hello[1::2]), strict=False))
        self.current.is_cluster_node = facts.get("mode") == "cluster"
        if self.current.is_cluster_node and not self._is_reported:
            self._is_reported = True
            _log.warning("Redis will not serve all limiters: %s", CLUSTER)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
