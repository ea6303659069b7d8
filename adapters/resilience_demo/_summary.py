"""The summary of both sides over the whole demo. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from resilience_demo._record import CATALOGUES, GUARDED, PATIENCE, PLAIN, Tally
from resilience_demo._stage import Stage

__all__ = ("Row", "summary")


class Row(NamedTuple):
    """One figure, with the toolkit and without it."""

    name: str
    guarded: str
    plain: str


def summary(stage: Stage) -> Iterator[Row]:
    """Yield the figures that tell what the customers of each side got."""
    orders = {side: stage.record.total(side) for side in (GUARDED, PLAIN)}
    pages = {side: stage.record.total(CATALOGUES[side]) for side in (GUARDED, PLAIN)}
    yield _row(f"catalogue served within {PATIENCE:g} s", pages, _served)
    yield _row(f"answers to orders within {PATIENCE:g} s", orders, _in_time)
    yield _row("orders paid", orders, _paid)
    yield _row("orders sent again after Retry-After", orders, _returned)
    yield _row("time that customers waited for answers", orders, _waited)


def _row(name: str, tallies: dict[str, Tally], figure: Callable[[Tally], str]) -> Row:
    return Row(name, figure(tallies[GUARDED]), figure(tallies[PLAIN]))


def _served(tally: Tally) -> str:
    return _share(tally.outcomes["ok"], tally.asked)


def _paid(tally: Tally) -> str:
    return str(tally.outcomes["ok"])


def _in_time(tally: Tally) -> str:
    return _share(tally.in_time, len(tally.seconds) + tally.unsent)


def _returned(tally: Tally) -> str:
    return str(tally.returned)


def _waited(tally: Tally) -> str:
    return f"{sum(tally.seconds):,.0f} s"


def _share(number: int, total: int) -> str:
    return f"{number} of {total} ({number / total:.0%})" if total else "-"
