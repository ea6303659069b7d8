"""The demo as plain lines, for scripts and small terminals: no colours, no markup, no redrawing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TextIO

from resilience_demo import _timeline
from resilience_demo._pipeline_state import Transition
from resilience_demo._record import CATALOGUES, GUARDED, PLAIN, PRICES, Tally
from resilience_demo._stage import Stage
from resilience_demo._summary import summary
from resilience_demo._verdict import Criterion, milliseconds

__all__ = ("INSTALLED", "Lines", "policy_summaries", "summary_lines")

INSTALLED = {GUARDED: "with", PLAIN: "without"}
_ORDERS = ("orders", "toolkit", "sent", "paid", "failed", "refused", "p50", "p95", "max")
_PAGES = ("catalogue", "toolkit", "sent", "served", "failed", "refused", "p50", "p95", "max")
_ROW = "{:<10} {:<8} {:>6} {:>6} {:>7} {:>9} {:>9} {:>9} {:>9}"
_SUM = "{:<40} {:>18} {:>18}"
_SLICES = 60


class Lines:
    """Writes a line for each event, and a table at the end."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out

    def opened(self, stage: Stage) -> None:
        """Write a line for each server."""
        for server in stage.servers:
            self._write(f"started  {server}")
        self._write(f"{stage.script.seconds:g} s of traffic, the same with the toolkit and without it:")

    def phase(self, stage: Stage) -> None:
        """Write the start, name and description of the phase."""
        if stage.phase is not None:
            self._write(f"{stage.marks[stage.phase.name]:6.2f} s  {stage.phase.name}: {stage.phase.words}")

    def news(self, transition: Transition) -> None:
        """Write the transition of the breaker."""
        self._write(f"{transition.at:6.2f} s  {transition.words}")

    def tick(self, stage: Stage) -> None:
        """Write nothing."""

    def ended(self, stage: Stage, criteria: list[Criterion]) -> None:
        """Write the time axis, the tables, the summary, the actions of each policy, and each promise."""
        for block in (_axis(stage), _orders(stage), _pages(stage), summary_lines(stage)):
            self._write("")
            for row in block:
                self._write(row)
        self._write("")
        for name, actions in policy_summaries(stage):
            self._write(f"{name:<9} {actions}")
        self._write("")
        for criterion in criteria:
            self._write(f"{'PASS' if criterion.is_met else 'FAIL'}  {criterion.name}: {criterion.measured}")

    def interrupted(self) -> None:
        """Write that a signal stopped the demo."""
        self._write("stopped")

    def failed(self, words: str) -> None:
        """Write why the demo has no result."""
        self._write(f"FAIL  {words}")

    def close(self) -> None:
        """Flush the output."""
        self._out.flush()

    def _write(self, line: str) -> None:
        self._out.write(line + "\n")
        self._out.flush()


def policy_summaries(stage: Stage) -> Iterator[tuple[str, str]]:
    """Yield the name of each policy and a summary of its actions so far."""
    pipeline, prices = stage.pipeline, stage.record.total(PRICES)
    repeated, gave_up = pipeline.count("retry.scheduled"), pipeline.count("retry.exhausted")
    yield "retry", f"attempts repeated: {repeated}, orders given up: {gave_up}"
    kinds = [transition.kind for transition in pipeline.transitions]
    opened, closed = kinds.count("breaker.opened"), kinds.count("breaker.closed")
    yield "breaker", f"opened: {opened}, closed: {closed}, calls refused: {pipeline.count('breaker.rejected')}"
    served, over = prices.outcomes["ok"], prices.outcomes["rejected"]
    yield "limiter", f"GET /prices within the limit: {served}, refused: {over}; counted {stage.state}"
    refused = pipeline.count("bulkhead.rejected")
    yield "bulkhead", f"calls refused because all {pipeline.places} places were taken: {refused}"
    yield "timeout", f"calls ended: {pipeline.count('timeout.elapsed')}"


def summary_lines(stage: Stage) -> Iterator[str]:
    """Yield the summary as a table of both sides."""
    yield _SUM.format("summary of all phases", "with the toolkit", "without")
    for row in summary(stage):
        yield _SUM.format(*row)


def _axis(stage: Stage) -> Iterator[str]:
    span = stage.script.seconds
    yield f"{'seconds':<20}{_timeline.ruler(span, _SLICES)}"
    yield f"{'phase':<20}{_timeline.phases(stage, _SLICES)}"
    for name, sides in (("orders", {GUARDED: GUARDED, PLAIN: PLAIN}), ("catalogue", CATALOGUES)):
        for side, stream in sides.items():
            answers = (answer for answer in stage.record.answers if answer.side == stream)
            yield f"{name:<10} {INSTALLED[side]:<8} {_timeline.marks(answers, span, _SLICES)}".rstrip()
    yield _timeline.LEGEND


def _orders(stage: Stage) -> Iterator[str]:
    yield _ROW.format(*_ORDERS)
    for phase in stage.script.phases:
        for side, word in INSTALLED.items():
            yield _ROW.format(phase.name, word, *_figures(stage.record.of(side, phase.name)))


def _pages(stage: Stage) -> Iterator[str]:
    yield _ROW.format(*_PAGES)
    for phase in stage.script.phases:
        for side, word in INSTALLED.items():
            yield _ROW.format(phase.name, word, *_figures(stage.record.of(CATALOGUES[side], phase.name)))


def _figures(tally: Tally) -> Iterator[str]:
    yield str(tally.asked)
    for outcome in ("ok", "error", "rejected"):
        yield str(tally.outcomes[outcome])
    for share in (0.5, 0.95, 1.0):
        yield milliseconds(tally.percentile(share))
