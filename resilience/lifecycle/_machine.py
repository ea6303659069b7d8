"""The four states of a process and the ways between them. Pure: told the time, not thread-safe, silent."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("DRAINING", "READY", "STARTING", "STOPPED", "Machine", "Transition")

STARTING, READY, DRAINING, STOPPED = "starting", "ready", "draining", "stopped"

_LEADS_TO = {
    READY: (STARTING, STOPPED),  # from stopped: a test client runs the same application several times
    DRAINING: (STARTING, READY),
    STOPPED: (STARTING, READY, DRAINING),
}


class Transition(NamedTuple):
    """The state changed; `lasted` seconds were spent in the one before."""

    before: str
    after: str
    lasted: float


class Machine:
    """Nothing leads from draining back to ready: whoever routes traffic may already have acted on it."""

    __slots__ = ("since", "state")

    def __init__(self, now: float) -> None:
        self.state = STARTING
        self.since = now

    def become(self, state: str, now: float) -> Transition | None:
        """Enter `state` where that is allowed from here; None where nothing changed."""
        if self.state not in _LEADS_TO[state]:
            return None
        change = Transition(self.state, state, now - self.since)
        self.state, self.since = state, now
        return change
