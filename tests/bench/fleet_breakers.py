"""One breaker over a fleet, in virtual time: how soon all instances know that a dependency is down.

Each instance counts its own calls by the product's own rules (`TripRules`), and makes its rounds by the product's own
machine (`Beat`). Its trip is a vote on Redis. The vote that reaches the quorum (`votes_needed`) opens the circuit of
the fleet. The other instances hear that by a message, or at their next round.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from fleet_server import Core, Costs

from resilience.breaker._options import BreakerOptions
from resilience.breaker._rules import TripRules
from resilience.breaker._window import CallWindow
from resilience.breaker.shared._machine import votes_needed
from resilience.fleet._machine import BEAT, Beat

__all__ = ("FlakySeen", "Sharing", "TripSeen", "play_flaky", "play_trip")

OPTIONS = BreakerOptions(failure_rate_threshold=0.5, sliding_window=20, minimum_calls=10, reset_timeout=5)
ERROR_TAKES = 0.05
LONGEST = 60.0
SCRIPTS = 2
"""Scripts of a round: the heartbeat, and the record of the breaker."""


@dataclass(frozen=True)
class Sharing:
    """How the instances share their breaker.

    Attributes:
        instances: Instances of the fleet.
        quorum: The votes that open the circuit of the fleet, as a part of the instances or as a number; None if the
            breaker is not shared.
        is_published: Whether messages arrive. Else an instance knows at its next round.
        calls: Calls of an average instance in a second. The instances have Pareto shares of the calls (alpha 1.5, at
            most 50 times the smallest).
        seed: Of all chance.
    """

    instances: int
    quorum: float | None = 0.5
    is_published: bool = True
    calls: float = 10
    seed: int = 1

    @property
    def votes(self) -> float:
        """The votes that open the circuit of the fleet."""
        if self.quorum is None:
            return math.inf
        return votes_needed(self.quorum, self.instances)


@dataclass(frozen=True)
class TripSeen:
    """What came of it, in seconds from the moment at which the dependency died.

    Attributes:
        first: The first instance opens.
        fleet: The circuit of the fleet opens; None if it never does.
        half: Half of the instances refuse calls to the dependency, by their own trip or by the fleet's.
        last: All instances do.
        spread: From the opening of the fleet until the last instance knows.
        wasted: Calls of an average instance that reached the dead dependency.
        operations: Operations of Redis in the busiest second, messages included.
        core: The part of a core of Redis that this second needs.
    """

    first: float
    fleet: float | None
    half: float
    last: float
    spread: float | None
    wasted: float
    operations: float
    core: float


def play_trip(sharing: Sharing, costs: Costs | None = None) -> TripSeen:
    """Have the dependency die for all instances at once."""
    chance = random.Random(sharing.seed)
    rates = list(_rates(sharing, chance))
    alone = [_own_trip(rate, chance) for rate in rates]
    record = Record(sharing, Core(costs or Costs()))
    refuses_from = list(alone)
    events = [(at, number, False) for number, at in enumerate(alone)]
    beats = [Beat(chance.random() * BEAT) for _ in range(sharing.instances)]
    if sharing.quorum is not None:
        events += [(beat.due_at, number, True) for number, beat in enumerate(beats)]
    heapq.heapify(events)
    waiting = set(range(sharing.instances))
    while waiting and events:
        at, number, is_beat = heapq.heappop(events)
        heard = record.heard_at(number)
        knows = heard if heard <= at else record.polled_at(at) if is_beat else math.inf
        refuses_from[number] = min(refuses_from[number], knows)
        if refuses_from[number] <= at:
            waiting.discard(number)
        if is_beat:
            beats[number].answered(at, chance.random(), sharing.instances)
            heapq.heappush(events, (beats[number].due_at, number, True))
        elif knows > at:
            record.vote(number, at)
    refuses_from = [min(at, record.heard_at(number)) for number, at in enumerate(refuses_from)]
    return _trip_seen(record, rates, refuses_from)


def _trip_seen(record: Record, rates: list[float], refuses_from: list[float]) -> TripSeen:
    in_order = sorted(refuses_from)
    last = in_order[-1]
    core = record.core
    busiest = max(range(math.ceil(last) + 1), key=lambda second: core.share(second, second + 1))
    return TripSeen(
        first=in_order[0],
        fleet=record.opened_at,
        half=in_order[len(in_order) // 2],
        last=last,
        spread=None if record.opened_at is None else last - record.opened_at,
        wasted=sum(rate * at for rate, at in zip(rates, refuses_from, strict=True)) / len(rates),
        operations=sum(core.a_second(kind, busiest, busiest + 1) for kind in ("rounds", "messages")),
        core=core.share(busiest, busiest + 1),
    )


def _rates(sharing: Sharing, chance: random.Random) -> Iterator[float]:
    shares = [min(50.0, chance.paretovariate(1.5)) for _ in range(sharing.instances)]
    each = sharing.calls * sharing.instances / sum(shares)
    return (share * each for share in shares)


def _own_trip(rate: float, chance: random.Random) -> float:
    """Return when an instance opens by its own calls, which all fail from 0 on."""
    window = CallWindow(int(OPTIONS.sliding_window))
    rules = TripRules(OPTIONS.limits, window)
    for _ in range(int(OPTIONS.sliding_window)):
        rules.record_success()
    at = ERROR_TAKES
    while True:
        at += chance.expovariate(rate)
        if rules.record_failure(at) is not None:
            return at


@dataclass
class Record:
    """What Redis knows of the breaker, and when the instances learn of it."""

    sharing: Sharing
    core: Core
    votes: set[int] = field(default_factory=set)
    opened_at: float | None = None
    _first_message: float = math.inf

    def vote(self, number: int, at: float) -> None:
        """Count the trip of an instance, in a round of its own; the vote that reaches the quorum opens."""
        if self.sharing.quorum is None:
            return
        done = self.core.run("rounds", at, SCRIPTS)
        self.votes.add(number)
        if self.opened_at is None and len(self.votes) >= self.sharing.votes:
            self.opened_at = done - self.core.costs.way
            if self.sharing.is_published:
                self._first_message = self.core.publish("messages", self.opened_at, self.sharing.instances)

    def heard_at(self, number: int) -> float:
        """Return when an instance gets the message, if there is one."""
        return self._first_message + number * self.core.costs.delivery

    def polled_at(self, at: float) -> float:
        """Make a round that begins at `at`; returns when the instance knows that the fleet is open, if it is."""
        done = self.core.run("rounds", at, SCRIPTS)
        return done if self.opened_at is not None and self.opened_at < done else math.inf


@dataclass(frozen=True)
class FlakySeen:
    """A healthy dependency, seen by some instances that cannot reach it.

    Attributes:
        refused: The part of the calls of all healthy instances that is refused.
        openings: How often the circuit of the fleet opens in a minute.
    """

    refused: float
    openings: int


def play_flaky(sharing: Sharing, flaky: int, seconds: float = LONGEST, costs: Costs | None = None) -> FlakySeen:
    """Have `flaky` instances fail all their calls; a trial of a healthy instance closes the circuit of the fleet."""
    chance = random.Random(sharing.seed)
    costs = costs or Costs()
    refused, openings, at = 0.0, 0, 0.0
    healthy = sharing.instances - flaky
    while at < seconds:
        record = Record(sharing, Core(costs))
        for number, trip in enumerate(sorted(_own_trip(sharing.calls, chance) for _ in range(flaky))):
            record.vote(number, trip)
        if record.opened_at is None:
            break
        openings += 1
        closed_after = OPTIONS.reset_timeout * (1 - OPTIONS.reset_timeout_jitter * chance.random())
        # The trial is the first call of any instance after the open time: at once. Opening and closing spread alike.
        at += record.opened_at + closed_after
        refused += min(closed_after, max(0.0, seconds - at + closed_after))
    return FlakySeen(refused / seconds if healthy else 1.0, openings)
