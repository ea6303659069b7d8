"""Hedges: what a call costs that is answered in time, which is nearly all of them."""

from __future__ import annotations

import samples
from harness import Case, Contender, Sample, Session

from resilience import Hedge, Pipeline, idempotent

__all__ = ("CASES",)


@idempotent
def work(order: int) -> int:
    """Do as little as a function can."""
    return order


@idempotent
async def awork(order: int) -> int:
    """Do as little as a coroutine can."""
    return order


async def unmarked(order: int) -> int:
    """Do the same, without the mark."""
    return order


def _fixed(session: Session) -> Sample:
    return samples.awaits(session, Pipeline("bench", Hedge("1s"))(awork))


def _blocking(_session: Session) -> Sample:
    return samples.calls(Pipeline("bench", Hedge("1s"))(work), 1)


CASES = (
    Case(
        "aio-hedge",
        "Answered before the hedge, awaiting",
        Contender("bare call", lambda session: samples.awaits(session, awork)),
        (
            Contender("resilience, delay=1s", _fixed, "one hedge after 1 s; each attempt has its own task"),
            Contender(
                "resilience, unmarked",
                lambda session: samples.awaits(session, Pipeline("bench", Hedge("1s"))(unmarked)),
                "the function is not marked as idempotent, so the chain has no hedge",
            ),
        ),
    ),
    Case(
        "hedge",
        "Answered before the hedge, blocking",
        Contender("bare call", lambda _session: samples.calls(work, 1)),
        (
            Contender(
                "resilience, delay=1s",
                _blocking,
                "one hedge after 1 s; another thread makes each attempt (the figure does not contain its CPU time)",
            ),
        ),
    ),
)
