"""Latency over time as blocks: one column per slice of time, one row per power of ten. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from resilience_demo._record import OUTCOMES, Answer

__all__ = ("ROWS", "Column", "cell", "columns")

ROWS = ("1 s", "100 ms", "10 ms", "1 ms")
"""From the top; each row reaches from its figure to ten times that."""

_BLOCKS = " ▁▂▃▄▅▆▇█"
_FLOOR = 0.001


class Column(NamedTuple):
    """What happened in one slice of time: the median latency, and what became of most orders."""

    seconds: float
    outcome: str


def columns(answers: Iterable[Answer], span: float, count: int) -> list[Column | None]:
    """Return `count` columns over `span` seconds; None where nothing was answered."""
    slices: list[list[Answer]] = [[] for _ in range(count)]
    for answer in answers:
        slices[min(count - 1, int(answer.began / span * count))].append(answer)
    return [_column(answers) for answers in slices]


def _column(answers: list[Answer]) -> Column | None:
    if not answers:
        return None
    seconds = sorted(answer.seconds for answer in answers)
    outcomes = Counter(answer.outcome for answer in answers)
    most = max(OUTCOMES, key=lambda outcome: outcomes[outcome])
    return Column(seconds[len(seconds) // 2], most)


def cell(seconds: float, row: int) -> str:
    """Return the part of a bar for `seconds` that stands in `row`, counted from the top."""
    height = math.log10(max(seconds, _FLOOR) / _FLOOR)
    filled = height - (len(ROWS) - 1 - row)
    level = max(0, min(8, math.ceil(filled * 8)))
    if row == len(ROWS) - 1:
        level = max(1, level)  # an answer is always seen, however quick
    return _BLOCKS[level]


def rows(found: list[Column | None]) -> Iterator[list[tuple[str, str]]]:
    """Yield each row from the top, as (block, outcome) pairs."""
    for row in range(len(ROWS)):
        yield [(" ", "") if column is None else (cell(column.seconds, row), column.outcome) for column in found]
