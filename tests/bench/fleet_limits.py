"""One limit over a fleet, in virtual time: a script for each decision, or leases.

Every instance is visited 20 times a second, with the calls that have come since: a Poisson number. The bucket on
Redis, the leases, the outage of an instance and its share of the limit are the product's own (`Quota`, `TokenLease`,
`Availability`, `share_of`).
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fleet_server import Core, Costs

from resilience.ratelimit._machine import Quota
from resilience.ratelimit._options import MOST_LEASED
from resilience.ratelimit._rate import Rate
from resilience.ratelimit.on_redis._share import share_of
from resilience.ratelimit.on_redis.leases._machine import LeaseRule, TokenLease
from resilience.redis._machine import Availability, Down

__all__ = ("LimitSeen", "Load", "Spender", "exact", "leased", "play_limit")

VISITS = 20
"""Visits of an instance in a second."""


@dataclass(frozen=True)
class Load:
    """How many calls come, in calls of an average instance a second; the limit is `limit` of them.

    Attributes:
        instances: Instances of the fleet.
        limit: The limit, for each instance. The burst is one second of it.
        calm: Calls in the first part, and after the overload.
        overload: Calls in the second part.
        calm_seconds: How long the first part takes.
        overload_seconds: How long the second part takes.
        is_even: Every instance gets the same number of calls; else a Pareto share (alpha 1.5, at most 50 times the
            smallest).
        seed: Of all chance.
    """

    instances: int
    limit: float = 10
    calm: float = 5
    overload: float = 30
    calm_seconds: int = 3
    overload_seconds: int = 4
    is_even: bool = True
    seed: int = 1


class SharedBucket:
    """A bucket: the product's arithmetic, without Lua."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._full_at = 0.0

    def take(self, wanted: int, now: float) -> int:
        """Take as many tokens as there are, at most `wanted`."""
        quota = self._quota
        missing = max(0.0, self._full_at - now)
        there = math.floor((quota.room - missing) / quota.interval)
        taken = max(0, min(wanted, there))
        if taken:
            self._full_at = quota.spend(self._full_at, now, taken).full_at
        return taken

    def missing(self, now: float) -> float:
        """Return the seconds until the bucket is full."""
        return max(0.0, self._full_at - now)

    def give_back(self, tokens: int) -> None:
        """Return tokens that were not used."""
        self._full_at = self._quota.returned(self._full_at, tokens)


class Spender(Protocol):
    """How an instance gets its tokens."""

    def spend(self, calls: int, now: float) -> int:
        """Return how many of the calls are admitted."""
        ...


@dataclass
class Fleet:
    """What the instances of a fleet share."""

    core: Core
    bucket: SharedBucket
    quota: Quota
    instances: int
    chance: random.Random = field(default_factory=random.Random)


class ExactSpender:
    """A script for each decision. An instance that gets no answer in time decides with its own share for a while."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._outage = Availability()
        self._own = SharedBucket(share_of(fleet.quota, fleet.instances))

    def spend(self, calls: int, now: float) -> int:
        """Ask for each call, or decide alone in an outage."""
        epoch, core = self._outage.epoch, self._fleet.core
        if isinstance(epoch, Down):
            self._try(epoch, now)
            return self._own.take(calls, now)
        done = core.run("decisions", now, calls)
        taken = self._fleet.bucket.take(calls, done)  # the script runs, whether its client waits or not
        if done - now <= core.costs.timeout:
            return taken
        self._outage.failed(epoch, now + core.costs.timeout, self._fleet.chance.random())
        return self._own.take(calls, now)

    def _try(self, down: Down, now: float) -> None:
        """Make the trial of the watch, if it is due."""
        if now < down.trial_at:
            return
        core = self._fleet.core
        if core.run("trials", now) - now <= core.costs.timeout:
            self._outage.trial_succeeded(down)
        else:
            self._outage.trial_failed(down, now, self._fleet.chance.random())


def exact(fleet: Fleet) -> Spender:
    """Return an instance that asks Redis for each decision."""
    return ExactSpender(fleet)


class LeaseSpender:
    """Tokens taken ahead and spent without Redis: the lease is the product's own, with `lease="auto"`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._rule = LeaseRule(fleet.quota, MOST_LEASED)
        self._lease = TokenLease(0.0)
        self._numbers = itertools.count(1)

    def spend(self, calls: int, now: float) -> int:
        """Spend the lease, and ask for more as `LeasedBuckets` does."""
        lease = self._lease
        for admitted in range(calls):
            if lease.spend(1, now):
                if len(lease.tokens) <= lease.low:
                    self._renew(0, now)
                continue
            if now >= lease.ask_at:
                lease.ask(1)
                self._renew(1, now)
            if not lease.spend(1, now):
                lease.ask(calls - admitted - 1)
                return admitted
        return calls

    def _renew(self, least: int, now: float) -> None:
        fleet, lease = self._fleet, self._lease
        size = self._rule.size(lease.level(now), fleet.instances)
        renewal = lease.begin(next(self._numbers), max(least, size), now)
        if renewal is None:
            return
        done = fleet.core.lease(now)
        fleet.bucket.give_back(renewal.back)
        granted = fleet.bucket.take(renewal.wanted, done)
        missing = fleet.bucket.missing(done)
        pause = self._rule.pause(renewal.wanted, missing, fleet.instances, fleet.chance.random())
        lease.answered(renewal, granted, missing, pause, now)
        renewal.end()


def leased(fleet: Fleet) -> Spender:
    """Return an instance that takes leases."""
    return LeaseSpender(fleet)


@dataclass(frozen=True)
class LimitSeen:
    """What came of it. Shares are of the limit.

    Attributes:
        calm: Operations of Redis in a second, for the limit alone, in the calm part.
        overload: The same in the overload.
        core: The part of a core of Redis that the overload needs.
        refused_calm: The part of the calls that were refused while the calls stay below the limit.
        first_second: Tokens spent in the first second of the overload: at most 2, the burst and the rate.
        steady: Tokens spent in a second, after that.
        over: Tokens spent beyond rate x time + burst, at worst over all stretches of time, in seconds of the limit.
        fairness: The fewest tokens of an instance over the most, in the steady part.
        jain: Jain's index of the tokens of all instances: 1 if they are equal, 1/n if one has them all.
        small: The part of their calls that the instances with the fewest calls (one half of all) get, in the steady
            part.
        large: The same for the instances with the most calls (a tenth).
    """

    calm: float
    overload: float
    core: float
    refused_calm: float
    first_second: float
    steady: float
    over: float
    fairness: float
    jain: float
    small: float
    large: float


def play_limit(load: Load, build: Callable[[Fleet], Spender], costs: Costs | None = None) -> LimitSeen:
    """Play the load with instances as `build` makes them."""
    chance = random.Random(load.seed)
    rate = load.limit * load.instances
    core = Core(costs or Costs())
    quota = Quota("fleet", Rate(round(rate), 1), round(rate))
    fleet = Fleet(core, SharedBucket(quota), quota, load.instances, chance)
    spenders = [build(fleet) for _ in range(load.instances)]
    weights = weights_of(load, chance)
    tally = Tally(load, rate)
    end = load.calm_seconds + load.overload_seconds
    calls_of = {
        demand: [Poisson(weight * demand / VISITS, chance) for weight in weights]
        for demand in (load.calm, load.overload)
    }
    for tick in range(end * VISITS):
        is_calm = tick < load.calm_seconds * VISITS
        draws = calls_of[load.calm if is_calm else load.overload]
        for number, spender in enumerate(spenders):
            calls = draws[number].draw()
            if calls:
                now = (tick + number / load.instances) / VISITS
                tally.add(number, calls, spender.spend(calls, now))
        tally.tick_ends(tick)
    return tally.seen(core)


def weights_of(load: Load, chance: random.Random) -> list[float]:
    """Return the part of the calls that each instance gets; 1 on average."""
    if load.is_even:
        return [1.0] * load.instances
    shares = [min(50.0, chance.paretovariate(1.5)) for _ in range(load.instances)]
    mean = sum(shares) / len(shares)
    return sorted(share / mean for share in shares)


class Poisson:
    """Numbers of calls, by a table of the distribution. Instances with the same mean have the same table."""

    _tables: dict[float, list[float]] = {}  # noqa: RUF012 - a cache of the class

    def __init__(self, mean: float, chance: random.Random) -> None:
        key = round(mean, 2)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = list(self._cumulated(max(key, 0.01)))
        self._table, self._random = table, chance.random

    @staticmethod
    def _cumulated(mean: float) -> Sequence[float]:
        part, total, table = math.exp(-mean), 0.0, []
        for number in range(1, 400):
            total += part
            table.append(total)
            if total > 1 - 1e-12:
                break
            part *= mean / number
        return table

    def draw(self) -> int:
        """Return a number."""
        return bisect.bisect(self._table, self._random())


class Tally:
    """Counts calls and tokens by instance and time."""

    def __init__(self, load: Load, rate: float) -> None:
        self._load, self._rate = load, rate
        self._admitted: list[int] = []  # by tick
        self._now = 0
        self._calls_calm = self._admitted_calm = 0
        self._steady_from = (load.calm_seconds + 1) * VISITS
        self._tick = 0
        self._calls = [0] * load.instances  # in the steady part
        self._tokens = [0] * load.instances

    def add(self, number: int, calls: int, admitted: int) -> None:
        """Count what an instance got at one visit."""
        self._now += admitted
        if self._tick >= self._steady_from:
            self._calls[number] += calls
            self._tokens[number] += admitted
        elif self._tick < self._load.calm_seconds * VISITS:
            self._calls_calm += calls
            self._admitted_calm += admitted

    def tick_ends(self, tick: int) -> None:
        """Begin the next tick."""
        self._admitted.append(self._now)
        self._now, self._tick = 0, tick + 1

    def seen(self, core: Core) -> LimitSeen:
        """Return the figures."""
        load, rate = self._load, self._rate
        calm, end = load.calm_seconds, load.calm_seconds + load.overload_seconds
        first = sum(self._admitted[calm * VISITS : self._steady_from])
        steady = sum(self._admitted[self._steady_from :]) / (load.overload_seconds - 1)
        kinds = ("decisions", "trials", "leases")
        return LimitSeen(
            calm=sum(core.a_second(kind, 1, calm) for kind in kinds),
            overload=sum(core.a_second(kind, calm + 1, end) for kind in kinds),
            core=core.share(calm + 1, end),
            refused_calm=1 - self._admitted_calm / self._calls_calm,
            first_second=first / rate,
            steady=steady / rate,
            over=self._over() / rate,
            fairness=min(self._tokens) / max(self._tokens),
            jain=sum(self._tokens) ** 2 / (load.instances * sum(each * each for each in self._tokens)),
            small=self._pass_rate(0, load.instances // 2),
            large=self._pass_rate(load.instances - load.instances // 10, load.instances),
        )

    def _pass_rate(self, begin: int, end: int) -> float:
        return sum(self._tokens[begin:end]) / max(1, sum(self._calls[begin:end]))

    def _over(self) -> float:
        """Return the most tokens beyond rate x time + burst over any stretch of ticks."""
        worst = beyond = 0.0
        for admitted in self._admitted:
            beyond = max(0.0, beyond) + admitted - self._rate / VISITS
            worst = max(worst, beyond)
        return max(0.0, worst - round(self._rate))
