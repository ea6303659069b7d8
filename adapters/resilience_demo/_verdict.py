"""Judges whether the toolkit kept the promises of the demo. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from resilience_demo._pipeline_state import PipelineState, Transition
from resilience_demo._record import CATALOGUES, GUARDED, PLAIN, Tally
from resilience_demo._stage import Stage

__all__ = ("SERVED", "Criterion", "judge", "milliseconds")

FAST = 0.25
"""Seconds within which half of the guarded orders must be answered while the provider is down.

The shop allows 300 ms for a call to the provider, so a faster answer did not wait for the provider.
"""

SERVED = 0.9
"""The share of guarded requests for the catalogue that must be served while the provider is down."""

MIN_READERS = 10
"""The least number of requests for the catalogue during the outage from which the demo judges."""

MIN_ORDERS = 20
"""The least number of orders during the outage from which the demo judges."""


class Criterion(NamedTuple):
    """One promise, whether it was kept, and the measured figure."""

    name: str
    is_met: bool
    measured: str


def judge(stage: Stage) -> list[Criterion]:
    """Return the four promises of the demo, each with its result."""
    begins, ends = _outage(stage)
    opened = _first(stage.pipeline.transitions, "breaker.opened", begins, ends)
    return [
        _opened(opened, begins),
        _closed(stage.pipeline, opened, ends),
        _failed_fast(stage),
        _catalogue_lives(stage),
    ]


def _opened(opened: Transition | None, begins: float) -> Criterion:
    if opened is None:
        return Criterion("breaker opened", False, "never, while the provider was down")
    return Criterion("breaker opened", True, f"{opened.at - begins:.2f} s after the provider hung")


def _closed(pipeline: PipelineState, opened: Transition | None, ends: float) -> Criterion:
    name = "breaker closed again"
    closed = None if opened is None else _first(pipeline.transitions, "breaker.closed", max(ends, opened.at))
    if closed is None:
        return Criterion(name, False, f"never, after the provider was back; it is {pipeline.breaker}")
    if pipeline.breaker != "closed":
        return Criterion(name, False, f"it is {pipeline.breaker} at the end")
    return Criterion(name, True, f"{closed.at - ends:.2f} s after the provider was back")


def _failed_fast(stage: Stage) -> Criterion:
    name = "failed fast"
    guarded, plain = _during_outage(stage, GUARDED), _during_outage(stage, PLAIN)
    median = guarded.percentile(0.5)
    if median is None or len(guarded.seconds) < MIN_ORDERS:
        return Criterion(name, False, f"only {len(guarded.seconds)} guarded orders were answered during the outage")
    measured = (
        f"median answer in the outage {milliseconds(median)} (limit {milliseconds(FAST)}), "
        f"without the toolkit {milliseconds(plain.percentile(0.5))}"
    )
    return Criterion(name, median <= FAST, measured)


def _catalogue_lives(stage: Stage) -> Criterion:
    name = "catalogue stays up"
    guarded, plain = (_during_outage(stage, CATALOGUES[side]) for side in (GUARDED, PLAIN))
    if guarded.asked < MIN_READERS:
        return Criterion(name, False, f"only {guarded.asked} guarded requests for it were sent during the outage")
    served, asked = guarded.outcomes["ok"], guarded.asked
    measured = (
        f"served {served} of {asked} in the outage (limit {SERVED:.0%}), "
        f"without the toolkit {plain.outcomes['ok']} of {plain.asked}"
    )
    return Criterion(name, served >= SERVED * asked, measured)


def _during_outage(stage: Stage, side: str) -> Tally:
    return stage.record.of(side, *(phase.name for phase in stage.script.phases if phase.is_outage))


def _outage(stage: Stage) -> tuple[float, float]:
    """Return the start and the end of the outage. A time is infinite if it did not come."""
    marks = [(phase.is_outage, stage.marks.get(phase.name, math.inf)) for phase in stage.script.phases]
    begins = next((at for is_down, at in marks if is_down), math.inf)
    ends = next((at for is_down, at in marks if not is_down and at > begins), math.inf)
    return begins, ends


def _first(transitions: Iterable[Transition], kind: str, after: float, before: float = math.inf) -> Transition | None:
    return next((known for known in transitions if known.kind == kind and after <= known.at <= before), None)


def milliseconds(seconds: float | None) -> str:
    """Return a latency in ms as text, or a dash for None."""
    return "-" if seconds is None else f"{seconds * 1000:,.0f} ms"
