"""What 1,000 and 10,000 instances cost one Redis: `python tests/bench/fleet_model.py`.

A model in virtual time. It reads no clock and its chance has a seed, so the figures are the same on each machine.
`run.py --only fleet --write` puts them on docs/performance.md.

What is the product's own code: the arithmetic of the bucket, the leases, the outage of an instance and its share of a
limit, the rules of a local circuit, the number of votes, and the times of the rounds. What is assumed:

- An instance is one process. It has one connection for its rounds, and one for messages.
- Redis is one core that works off what arrives, in the order of arrival (`fleet_server.Core`). A script takes 1/126,000
  of a second, and that of a lease 1.7 times as long. A message takes 4 us for each subscriber. Reading and writing are
  in these times.
- The network takes 0.25 ms in each direction, and loses nothing. A decision waits for at most 50 ms.
- A round is two scripts: the heartbeat, and the record of one shared breaker. It comes each 0.9 s, up to a tenth
  sooner or later, and at once after a trip.
- The calls of an instance are a Poisson process. A failing call fails within 50 ms.
- The instances of a limit get equal numbers of calls, unless a table says otherwise. Else, and for a breaker, they get
  Pareto shares of the calls (alpha 1.5, at most 50 times the smallest).
- A vote does not expire in the seconds that are played, no instance dies, and no message is lost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if str(HERE := Path(__file__).resolve().parent) not in sys.path:  # PYTHONSAFEPATH leaves it out
    sys.path.insert(0, str(HERE))

from fleet_breakers import SCRIPTS, Sharing, play_flaky, play_trip
from fleet_limits import Load, exact, leased, play_limit
from fleet_server import Costs

from resilience.fleet._machine import BEAT

__all__ = ("FLEET", "FleetTable", "main")

Row = tuple[str, ...]
SIZES = (1_000, 10_000)


@dataclass(frozen=True)
class FleetTable:
    """One table of the model. `rows_of` yields the rows for these numbers of instances, without headings."""

    key: str
    title: str
    note: str
    headings: Row
    rows_of: Callable[[Sequence[int]], Iterator[Row]]
    remarks: Sequence[str] = ()

    def rows(self, sizes: Sequence[int] = SIZES) -> Iterator[Row]:
        """Play it; yields the headings first. The last column is for remarks."""
        yield ("", *self.headings, "")
        for row in self.rows_of(sizes):
            yield (*row, "")


def _limits(sizes: Sequence[int]) -> Iterator[Row]:
    for size in sizes:
        for name, load, build in (
            ("a script for each decision", Load(size), exact),
            ("leases", Load(size), leased),
            ("leases, Pareto calls", Load(size, is_even=False), leased),
        ):
            seen = play_limit(load, build)
            yield (
                f"{size:,}, {name}",
                f"{seen.calm:,.0f}",
                f"{seen.overload:,.0f}",
                f"{seen.core:.0%}",
                f"{seen.first_second:.2f}",
                f"{seen.steady:.2f}",
                f"{seen.over:.2f}",
            )


def _fairness(sizes: Sequence[int]) -> Iterator[Row]:
    for size in sizes:
        for name, build in (("a script for each decision", exact), ("leases", leased)):
            even = play_limit(Load(size, overload_seconds=8), build)
            skewed = play_limit(Load(size, overload_seconds=8, is_even=False), build)
            yield (
                f"{size:,}, {name}",
                f"{even.fairness:.2f}",
                f"{even.jain:.3f}",
                f"{skewed.small:.0%}",
                f"{skewed.large:.0%}",
            )


_QUORUMS: Sequence[tuple[str, float | None]] = (("not shared", None), ("quorum 1", 1), ("3", 3), ("0.5", 0.5))


def _trips(sizes: Sequence[int]) -> Iterator[Row]:
    for size in sizes:
        for name, quorum in _QUORUMS:
            for is_published in (True, False)[: 1 if quorum is None else 2]:
                seen = play_trip(Sharing(size, quorum, is_published))
                how = "" if quorum is None else ", messages" if is_published else ", rounds alone"
                yield (
                    f"{size:,}, {name}{how}",
                    f"{seen.first:.2f}",
                    "never" if seen.fleet is None else f"{seen.fleet:.2f}",
                    f"{seen.last:.2f}",
                    "" if seen.spread is None else f"{seen.spread * 1e3:,.1f}",
                    f"{seen.wasted:.1f}",
                    f"{seen.operations:,.0f}",
                    f"{seen.core:.1%}",
                )


def _flaky(sizes: Sequence[int]) -> Iterator[Row]:
    for size in sizes:
        for name, quorum in _QUORUMS:
            seen = [play_flaky(Sharing(size, quorum), flaky) for flaky in (1, size // 100, size // 4)]
            yield (f"{size:,}, {name}", *(f"{each.refused:.0%}" for each in seen))


def _redis(sizes: Sequence[int]) -> Iterator[Row]:
    costs = Costs()
    for size in sizes:
        limit = play_limit(Load(size, overload_seconds=3), leased)
        rounds, leases, decisions = round(size * SCRIPTS / BEAT), limit.overload, size * Load(size).overload
        for name, number, each in (
            ("rounds, all the time", rounds, costs.script),
            ("leases of one limit, in overload", leases, costs.lease),
            ("the same limit without leases", decisions, costs.script),
            ("one trip of a breaker, messages", size, costs.delivery),
        ):
            yield f"{size:,}, {name}", f"{number:,.0f}", f"{number * each:.1%}"
        yield f"{size:,}, connections", f"{2 * size:,}", ""


FLEET = (
    FleetTable(
        "fleet-redis",
        "What a fleet costs one Redis",
        "One core of Redis runs all scripts. Half of a core is a sound bound: the rest is for the moments in which all "
        "instances come at once.",
        ("operations a second", "of a core"),
        _redis,
    ),
    FleetTable(
        "fleet-limit",
        "One limit over a fleet",
        "The limit is 10 calls/s for each instance, the burst one second of it. 5 calls/s come for each instance, then "
        "30 for 4 s. Tokens are in seconds of the limit: 2 in the first second are the burst and the rate. Beyond: "
        "tokens spent beyond rate x time + burst, at worst over all stretches of time. At 100 % of a core, decisions "
        "take longer than 50 ms, and instances decide with their own share of the limit meanwhile.",
        (
            "operations/s, calm",
            "overload",
            "of a core",
            "tokens in the first second",
            "a second, after that",
            "beyond",
        ),
        _limits,
    ),
    FleetTable(
        "fleet-fairness",
        "Who gets the tokens of the limit",
        "The overload of the table before it, for 8 s. Fewest/most and Jain's index: each instance gets the same "
        "number of calls; chance alone makes the calls of two instances differ. Pass rates: Pareto calls, for the half "
        "of the instances with the fewest calls and the tenth with the most.",
        ("fewest/most", "Jain", "quiet instances pass", "busy instances pass"),
        _fairness,
    ),
    FleetTable(
        "fleet-trip",
        "A dependency dies: when all instances know",
        "10 calls/s for an average instance, at least 3.3. A circuit opens at 50 % of the last 20 calls. Seconds count "
        "from the death. Wasted: calls of an average instance that reached the dead dependency. Operations and core: "
        "in the busiest second.",
        (
            "first instance opens, s",
            "fleet opens, s",
            "last instance refuses, s",
            "from fleet to last, ms",
            "calls wasted",
            "operations/s",
            "of a core",
        ),
        _trips,
    ),
    FleetTable(
        "fleet-flaky",
        "Some instances cannot reach a healthy dependency",
        "The part of the calls of the healthy instances that is refused within a minute, if one instance, one in a "
        "hundred, or a quarter of them fails all its calls. The circuit stays open for 5 s; the first trial of a "
        "healthy instance closes it.",
        ("one flaky", "1 % flaky", "25 % flaky"),
        _flaky,
    ),
)


def main() -> int:
    """Play and print all tables."""
    from report import aligned  # it needs nothing of the model; the model needs no library of the bench

    for table in FLEET:
        print(f"\n{table.title} [{table.key}]\n{table.note}\n{aligned(list(table.rows()))}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
