"""The demo as plain lines, for scripts and small terminals: no colours, no markup, no redrawing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TextIO

from resilience_demo._pipeline_state import Transition
from resilience_demo._record import GUARDED, PLAIN, PRICES, Tally
from resilience_demo._stage import Stage
from resilience_demo._verdict import Criterion, milliseconds

__all__ = ("INSTALLED", "Lines", "policy_summaries")

INSTALLED = {GUARDED: "with", PLAIN: "without"}
_HEAD = ("phase", "toolkit", "orders", "ok", "errors", "rejected", "p50", "p95", "max")
_ROW = "{:<10} {:<8} {:>6} {:>6} {:>7} {:>9} {:>9} {:>9} {:>9}"


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
        """Write the table, the actions of each policy, and each promise."""
        self._write("")
        for row in _rows(stage):
            self._write(row)
        self._write("")
        for name, summary in policy_summaries(stage):
            self._write(f"{name:<9} {summary}")
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
    yield "retry", f"tried again {pipeline.count('retry.scheduled')} x, gave up {pipeline.count('retry.exhausted')} x"
    kinds = [transition.kind for transition in pipeline.transitions]
    opened, closed = kinds.count("breaker.opened"), kinds.count("breaker.closed")
    yield "breaker", f"opened {opened} x, closed {closed} x, {pipeline.count('breaker.rejected')} calls refused at once"
    over = f"{prices.outcomes['rejected']} over the limit"
    yield "limiter", f"GET /prices: {prices.outcomes['ok']} answered, {over}; counted {stage.state}"
    yield (
        "bulkhead",
        f"{pipeline.count('bulkhead.rejected')} calls refused while all {pipeline.places} places were taken",
    )
    yield "timeout", f"{pipeline.count('timeout.elapsed')} calls cut short"


def _rows(stage: Stage) -> Iterator[str]:
    yield _ROW.format(*_HEAD)
    for phase in stage.script.phases:
        for side, word in INSTALLED.items():
            yield _ROW.format(phase.name, word, *_figures(stage.record.of(side, phase.name)))


def _figures(tally: Tally) -> Iterator[str]:
    yield str(len(tally.seconds) + tally.unsent)
    for outcome in ("ok", "error", "rejected"):
        yield str(tally.outcomes[outcome])
    for share in (0.5, 0.95, 1.0):
        yield milliseconds(tally.percentile(share))
