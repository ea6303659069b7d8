"""What happens when an upstream dies, limps or is flooded: `python tests/bench/run.py --only scenarios`.

Played in virtual time with seeded chance (`scenarios_world`), so the figures are exact and the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness import Unavailable
from scenarios_guards import BUDGETED, CONSECUTIVE, NAIVE, OTHERS, PEERS, bare
from scenarios_ours import LEASED, RAMPED, RUNNING, SECONDS, STRICT, STRICT_RAMPED, TIMED, WIDE, WINDOW
from scenarios_world import Guard, Health, Tally, Upstream, World, constant, traffic

__all__ = ("SCENARIOS", "Scenario", "amplification", "burst", "outage", "partial", "play")

Row = tuple[str, ...]
RATE = 500.0


@dataclass(frozen=True)
class Scenario:
    """One table: what is played, for whom, and what a reader has to know. `rows` yields the headings first."""

    key: str
    title: str
    note: str
    headings: Row
    guards: Sequence[Guard]
    row: Callable[[Guard], Row]
    """One cell for each heading."""

    @property
    def remarks(self) -> Sequence[str]:
        """How each guard is set up."""
        return [f"{guard.name}: {guard.how}" for guard in self.guards if guard.how]

    def rows(self) -> Iterator[Row]:
        """Play it for every guard; a library that is missing costs its row alone. The last column is for remarks."""
        yield ("", *self.headings, "")
        for guard in self.guards:
            try:
                yield (guard.name, *self.row(guard), "")
            except Unavailable as reason:
                yield (guard.name, *("-" for _ in self.headings), f"left out: {reason}")


def play(
    guard: Guard, health: Health, a_second: Callable[[float], float], seconds: float, seed: int = 1
) -> tuple[Upstream, Tally]:
    """Send traffic through `guard` for `seconds`; return what the upstream and the callers saw."""
    world = World(seed)
    upstream = Upstream(world, health)
    tallies: list[Tally] = []

    async def story() -> None:
        call = guard.build(world, upstream.answer)
        tallies.append(await traffic(world, call, guard.refusal(), a_second, seconds))

    world.play(story())
    return upstream, tallies[0]


@dataclass(frozen=True)
class Outage:
    """Seconds are counted from when the upstream died, and from when it was back."""

    opened_after: float | None
    wasted: int
    callers: int
    recovered_after: float


def outage(guard: Guard, failing_takes: float, *, lasts: float, rate: float = RATE, seed: int = 1) -> Outage:
    """Have the upstream die after 2 s and come back `lasts` seconds later; watch for 15 s more."""
    died, back = 2.0, 2.0 + lasts

    def health(now: float, _recent: int) -> tuple[float, float]:
        return (failing_takes, 1.0) if died <= now < back else (0.02, 0.0)

    upstream, tally = play(guard, health, constant(rate), back + 15, seed)
    return _outage_of(upstream, tally, died, back)


def _outage_of(upstream: Upstream, tally: Tally, died: float, back: float) -> Outage:
    refused = sorted(tally.refused_at)
    late = [at for at in (*refused, *tally.failed_at) if at >= back]
    asked = sum(died <= at < back for at in (*tally.served_at, *tally.failed_at, *refused))
    return Outage(
        opened_after=refused[0] - died if refused else None,
        wasted=upstream.calls_within(died, back),
        callers=asked,
        recovered_after=max(late) - back if late else 0.0,
    )


def _outage_row(failing_takes: float, lasts: float) -> Callable[[Guard], Row]:
    def row(guard: Guard) -> Row:
        seen = outage(guard, failing_takes, lasts=lasts)
        opened = "never" if seen.opened_after is None else f"{seen.opened_after:.3f}"
        return (opened, f"{seen.wasted:,}", f"{seen.wasted / seen.callers:.1%}", f"{seen.recovered_after:.2f}")

    return row


def burst(guard: Guard, errors: float, *, seconds: float = 60, seed: int = 1) -> Tally:
    """Have 100 callers a second, four times as many for the middle third; the upstream is well, `errors` apart."""

    def a_second(now: float) -> float:
        return 400.0 if seconds / 3 <= now < seconds * 2 / 3 else 100.0

    def health(now: float, _recent: int) -> tuple[float, float]:
        return (0.08 if a_second(now) > 100 else 0.02, errors)

    return play(guard, health, a_second, seconds, seed)[1]


def cold_start(guard: Guard, *, seed: int = 1) -> tuple[Outage, int, Tally]:
    """Have the upstream come back cold after 6 s: it bears 50 calls a second then, 50 more with each second."""
    died, back = 2.0, 8.0

    def health(now: float, recent: int) -> tuple[float, float]:
        if died <= now < back:
            return 0.05, 1.0
        return (0.02, 0.0) if now < died or recent <= 50 * (1 + now - back) else (0.05, 1.0)

    upstream, tally = play(guard, health, constant(RATE), back + 40, seed)
    return _outage_of(upstream, tally, died, back), upstream.failures - upstream.calls_within(died, back), tally


def _cold_row(guard: Guard) -> Row:
    seen, errors, tally = cold_start(guard)
    return f"{seen.recovered_after:.2f}", f"{errors:,}", f"{tally.refused_within(8.0, 48.0):,}"


def _burst_row(guard: Guard) -> Row:
    low, high = burst(guard, 0.005), burst(guard, 0.02)
    return f"{low.asked:,}", str(len(low.refused_at)), str(len(high.refused_at))


def partial(guard: Guard, errors: float = 0.4, *, seconds: float = 60, seed: int = 1) -> tuple[Upstream, Tally]:
    """Have the upstream fail `errors` of its calls, after 5 s in which it was well."""
    return play(guard, lambda now, _: (0.05, errors if now >= 5 else 0.0), constant(RATE), seconds, seed)


def _partial_row(guard: Guard) -> Row:
    upstream, tally = partial(guard)
    failed = f"{upstream.failures:,}"
    return f"{tally.shed:.1%}", f"{len(upstream.called_at):,}", failed, f"{len(tally.served_at) / tally.asked:.1%}"


def amplification(guard: Guard, *, seconds: float = 30, rate: float = RATE, seed: int = 1) -> float:
    """Return how many calls the upstream gets for each call made, while it answers nothing but errors."""
    upstream, tally = play(guard, lambda *_: (0.05, 1.0), constant(rate), seconds, seed)
    return len(upstream.called_at) / tally.asked


def _amplification_row(guard: Guard) -> Row:
    return f"{amplification(guard):.3f}", f"{amplification(guard, rate=50):.3f}"


_OUTAGE = ("opens after, s", "calls wasted", "of all", "well again after, s")
_TRIES = ("at 500 calls/s", "at 50 calls/s")

SCENARIOS = (
    Scenario(
        "scenarios-outage",
        "The upstream dies for 12 s, errors within 50 ms",
        "500 calls/s; circuits stay open for 5 s. Wasted: calls that reached the dead upstream. Well again: from the "
        "return of the upstream to the last caller without an answer; up to 5 s, depending on the open time that a "
        "circuit has left.",
        _OUTAGE,
        (bare(), WINDOW, SECONDS, CONSECUTIVE, *PEERS),
        _outage_row(0.05, 12),
    ),
    Scenario(
        "scenarios-hang",
        "The upstream hangs for 12 s, errors after 5 s",
        "The same load, but every call to the upstream hangs for 5 s before it fails. A breaker cannot count a call "
        "before its end, unless the breaker counts running calls. A timeout inside helps any breaker.",
        _OUTAGE,
        (bare(), WINDOW, RUNNING, LEASED, TIMED, CONSECUTIVE, *PEERS),
        _outage_row(5.0, 12),
    ),
    Scenario(
        "scenarios-burst",
        "+300 % traffic, the upstream is well",
        "100 calls/s for 20 s, 400 for 20 s, 100 for 20 s; answers take 20 ms, 80 ms during the burst. Every refusal "
        "is wrong.",
        ("calls", "refused at 0.5 % errors", "refused at 2 % errors"),
        (WINDOW, STRICT, SECONDS, RUNNING, CONSECUTIVE, *PEERS),
        _burst_row,
    ),
    Scenario(
        "scenarios-cold",
        "The upstream comes back cold",
        "500 calls/s. The upstream dies for 6 s. When it is back, it can serve 50 calls/s, and 50 more with each "
        "second; further calls fail. Well again: from the return of the upstream to the last caller without an answer.",
        ("well again after, s", "errors meanwhile", "refused meanwhile"),
        (bare(), WINDOW, RAMPED, CONSECUTIVE, *PEERS),
        _cold_row,
    ),
    Scenario(
        "scenarios-partial",
        "The upstream fails 40 % of its calls",
        "500 calls/s for 60 s, from second 5 on with 40 % errors. A threshold above the error rate needs a window that "
        "is wide enough to distinguish the two: of 100 calls, 50 fail by chance every few seconds. Any late success "
        "of a call from before the opening closes circuitbreaker again.",
        ("refused", "calls made", "of them failed", "callers served"),
        (bare(), WIDE, WINDOW, STRICT, STRICT_RAMPED, CONSECUTIVE, *PEERS),
        _partial_row,
    ),
    Scenario(
        "scenarios-retries",
        "Total outage: attempts for each call",
        "Every call fails within 50 ms, for 30 s: this is the load on an upstream that tries to recover. At 50 "
        "calls/s hardly more than three calls are in flight, and the floor of the budget (3) allows the retries.",
        _TRIES,
        (NAIVE, *BUDGETED, *OTHERS),
        _amplification_row,
    ),
)
