"""A chart of latency over time in block characters: a column per slice of time, a row per power of ten. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from resilience_demo._record import OUTCOMES, TrafficAnswer

__all__ = ("ROWS", "Column", "cell", "columns")

ROWS = ("1 s", "100 ms", "10 ms", "1 ms")
"""The labels from the top. A row covers latencies from its label to ten times its label."""

_BLOCKS = " ▁▂▃▄▅▆▇█"
_FLOOR = 0.001


class Column(NamedTuple):
    """One slice of time: the median latency and the most common outcome."""

    seconds: float
    outcome: str


def columns(answers: Iterable[TrafficAnswer], span: float, count: int) -> list[Column | None]:
    """Return `count` columns over `span` seconds. A column is None if its slice has no answers."""
    slices: list[list[TrafficAnswer]] = [[] for _ in range(count)]
    for answer in answers:
        slices[min(count - 1, int(answer.began / span * count))].append(answer)
    return [_column(answers) for answers in slices]


def _column(answers: list[TrafficAnswer]) -> Column | None:
    if not answers:
        return None
    seconds = sorted(answer.seconds for answer in answers)
    outcomes = Counter(answer.outcome for answer in answers)
    commonest = max(OUTCOMES, key=lambda outcome: outcomes[outcome])
    return Column(seconds[len(seconds) // 2], commonest)


def cell(seconds: float, row: int) -> str:
    """Return the block that a bar for `seconds` shows in `row`. Rows count from the top."""
    height = math.log10(max(seconds, _FLOOR) / _FLOOR)
    filled = height - (len(ROWS) - 1 - row)
    level = max(0, min(8, math.ceil(filled * 8)))
    if row == len(ROWS) - 1:
        level = max(1, level)  # the fastest answer is visible too
    return _BLOCKS[level]


def rows(found: list[Column | None]) -> Iterator[list[tuple[str, str]]]:
    """Yield the rows from the top, each as a list of (block, outcome) pairs."""
    for row in range(len(ROWS)):
        yield [(" ", "") if column is None else (cell(column.seconds, row), column.outcome) for column in found]
