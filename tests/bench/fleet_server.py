"""One Redis process in virtual time: a core that works off scripts and messages in the order of their arrival."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

__all__ = ("Core", "Costs")


@dataclass(frozen=True)
class Costs:
    """What the server and the network take, in seconds.

    Attributes:
        script: One script on the core of the server: 126,000 EVALSHA a second (redis/redis#3801).
        lease: A script about a lease: 1.7 times as long as one that decides, by the server's own count (16 us and 9.6).
        delivery: A message written to one subscriber: 40,000 of them keep a core busy for 0.1 to 0.2 s.
        way: The network in one direction, within a data centre.
        timeout: The longest time that a decision waits; `RESILIENCE_REDIS__TIMEOUT`.
    """

    script: float = 1 / 126_000
    lease: float = 1.7 / 126_000
    delivery: float = 4e-6
    way: float = 0.25e-3
    timeout: float = 0.05


class Core:
    """The one thread of Redis that runs commands.

    Requests arrive in the order in which they are sent, so the end of each is known as soon as it is sent, and the
    model needs no event for a reply.

    Args:
        costs: What a request takes.
    """

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.free_at = 0.0
        self.operations: Counter[tuple[str, int]] = Counter()
        """Operations by kind and second."""
        self._work: Counter[int] = Counter()  # in microseconds, by second

    def run(self, kind: str, sent: float, scripts: int = 1) -> float:
        """Run `scripts` scripts that a client sends at `sent`; returns when the client has the reply."""
        return self._work_off(kind, sent + self.costs.way, scripts, self.costs.script) + self.costs.way

    def lease(self, sent: float) -> float:
        """Run the script of a lease that a client sends at `sent`; returns when the client has the reply."""
        return self._work_off("leases", sent + self.costs.way, 1, self.costs.lease) + self.costs.way

    def publish(self, kind: str, at: float, subscribers: int) -> float:
        """Write a message to all subscribers, from inside a script that ran at `at`; returns when the first has it.

        Each further subscriber has it `costs.delivery` later.
        """
        done = self._work_off(kind, at, subscribers, self.costs.delivery)
        return done - (subscribers - 1) * self.costs.delivery + self.costs.way

    def _work_off(self, kind: str, arrived: float, number: int, each: float) -> float:
        begin = max(self.free_at, arrived)
        self.free_at = begin + number * each
        self.operations[kind, int(arrived)] += number
        self._work[int(arrived)] += round(number * each * 1e6)
        return self.free_at

    def a_second(self, kind: str, begin: float, end: float) -> float:
        """Return the operations of one kind in a second, as the mean from `begin` to `end`."""
        seconds = range(math.floor(begin), math.ceil(end))
        return sum(self.operations[kind, second] for second in seconds) / len(seconds)

    def share(self, begin: float, end: float) -> float:
        """Return the part of the core that the work from `begin` to `end` needs; above 1 it cannot be done."""
        seconds = range(math.floor(begin), math.ceil(end))
        return sum(self._work[second] for second in seconds) / 1e6 / len(seconds)
