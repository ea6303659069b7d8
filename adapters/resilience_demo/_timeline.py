"""The time axis: the seconds since the start, the phases, and a mark for each slice of time. Pure ASCII."""

from __future__ import annotations

from collections.abc import Iterable

from resilience_demo import _chart
from resilience_demo._record import TrafficAnswer
from resilience_demo._stage import Stage

__all__ = ("LEGEND", "marks", "phases", "ruler")

_MARKS = {"ok": "+", "error": "x", "rejected": "r"}
LEGEND = "the commonest outcome: + paid or served, r refused, x failed (catalogue: not served within 1 s)"
_STEPS = (1, 2, 5, 10, 20, 30, 60)
_MIN_GAP = 4
"""Columns between two figures of the ruler."""


def ruler(span: float, width: int) -> str:
    """Return a line of `width` columns for `span` seconds, with the seconds since the start."""
    step = next((step for step in _STEPS if step * width / span >= _MIN_GAP), _STEPS[-1])
    return _placed(((second, str(second)) for second in range(0, int(span) + 1, step)), span, width)


def phases(stage: Stage, width: int, label: str = "|{name}") -> str:
    """Return a line with a bar where each phase began, or will begin. `label` can use `name` and `seconds`."""
    planned, starts = 0.0, []
    for phase in stage.script.phases:
        at = stage.marks.get(phase.name, planned)
        starts.append((at, label.format(name=phase.name, seconds=round(at))))
        planned = at + phase.seconds
    return _placed(starts, stage.script.seconds, width)


def marks(answers: Iterable[TrafficAnswer], span: float, width: int) -> str:
    """Return the commonest outcome of each slice of time. A slice in which no request was sent is blank."""
    found = _chart.columns(answers, span, width)
    return "".join(" " if column is None else _MARKS[column.outcome] for column in found)


def _placed(labels: Iterable[tuple[float, str]], span: float, width: int) -> str:
    line = ""
    for at, label in labels:
        column = int(at / span * width)
        line = f"{line[:column]:<{column}}{label}"  # a label ends where the next one begins
    return line[:width].rstrip()
