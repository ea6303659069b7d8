"""Figures as text: aligned for the terminal, as Markdown for the page."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Protocol

from harness import Case, Figure, Unit

__all__ = ("SECTIONS", "Played", "VirtualTable", "aligned", "cells", "page", "section_of", "with_played")

_INTRODUCTION = """\
# Performance

This page compares the cost of a guarded call with the cost of a bare call, here and with other libraries.

This page is generated. `python tests/bench/run.py --write` measures all cases and writes the page; it takes minutes.
`--quick` prints the tables in seconds. `--only CASE` measures one case, by its name in brackets. `tox -e bench`
installs the other libraries.

Measured on {today}: {python}, {machine}.
With {versions}.

**{met} of {judged} budgets are met.** A budget is a goal that was set before the code was written, for a machine on
which the circuitbreaker package adds 525 ns to a call. The row of circuitbreaker shows the speed of this machine.

The contenders run in turn in each round, with the garbage collector off. Each contender is compared with the bare call
of the same round. A figure is the median over 15 rounds; a round counts the best of three samples of at least 5 ms.
Work inside the process is measured in CPU time. Awaiting loops let the event loop run every 64 calls. Compare only
figures of one table with each other, because all of them change together on another machine.
"""

Measured = tuple[Case, Sequence[Figure]]


class VirtualTable(Protocol):
    """A table that is played in virtual time. The first part of its key names its section."""

    @property
    def key(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def remarks(self) -> Sequence[str]: ...
    def rows(self) -> Iterator[tuple[str, ...]]: ...


Played = tuple[VirtualTable, Sequence[Sequence[str]]]

_SCENARIOS = """
## Scenarios

The scenarios show an upstream that dies, works badly or gets too many calls. They run in virtual time, with seeded
randomness, through the real awaiting code of each library. So `python tests/bench/run.py --only scenarios` prints the
same figures on any machine. Each library offers one way to replace its clock; the list below each table names it."""

_FLEET = """
## A fleet on one Redis

These figures are not measured. They come from a model in virtual time with seeded randomness, because no test starts
10,000 processes. `python tests/bench/fleet_model.py` prints them on any machine, in a minute. The first lines
of that file list its assumptions: most of all, that Redis runs 126,000 scripts a second on its one core. An instance is
one process: a service with four workers has four instances on each machine. The rows about leases are limits with
`lease="auto"`."""

SECTIONS = {"scenarios": _SCENARIOS, "fleet": _FLEET}
"""The last sections of the page, which are played and not measured."""

_HEADINGS = {
    Unit.NANOSECONDS: ("", "one call, ns", "added, ns", "x bare", "budget, ns", "verdict"),
    Unit.MILLISECONDS: ("", "in all, ms", "added, ms", "x bare", "budget, ms", "verdict"),
    Unit.SHARE: ("", "each, us", "a second", "of bare", "budget", "verdict"),
}
_PEERS = (
    "pybreaker",
    "circuitbreaker",
    "interlock-cb",
    "pyresilience",
    "tenacity",
    "stamina",
    "limits",
    "slowapi",
    "redis",
    "sqlalchemy",
    "psycopg-pool",
    "fastapi",
    "starlette",
    "uvicorn",
    "httptools",
    "uvloop",
)


def cells(case: Case, figures: Iterable[Figure]) -> list[tuple[str, ...]]:
    """Return the table of `case`, headings first."""
    return [_HEADINGS[case.unit], *(_row(case, figure) for figure in figures)]


def _row(case: Case, figure: Figure) -> tuple[str, ...]:
    if figure.unavailable is not None:
        return (figure.contender.name, "-", "-", "-", "-", f"left out: {figure.unavailable}")
    is_bare = figure.contender is case.bare
    each = f"{figure.each / case.unit.scale:,.{0 if case.unit is Unit.NANOSECONDS else 1}f}"
    if case.unit is Unit.SHARE:
        middle = (each, f"{1e9 / figure.each:,.0f}", "" if is_bare else f"{figure.share:.2f}")
    else:
        added = f"{figure.value(case.unit):,.{0 if case.unit is Unit.NANOSECONDS else 1}f}"
        middle = (each, "" if is_bare else added, "" if is_bare else f"{1 / figure.share:,.1f}")
    return (figure.contender.name, *middle, *_verdict(case, figure))


def _verdict(case: Case, figure: Figure) -> tuple[str, str]:
    budget, is_met = figure.contender.budget, figure.is_met(case.unit)
    if budget is None or is_met is None:
        return "", figure.beside
    off = abs(figure.value(case.unit) / budget - 1)
    verdict = "met" if is_met else f"missed by {_share(off)}"
    return f"{budget:,g}", f"{verdict}; {figure.beside}" if figure.beside else verdict


def _share(off: float) -> str:
    return f"{off:.0%}" if off >= 0.01 else "less than 1%"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows` in columns: names to the left, numbers to the right, remarks to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1

    def place(column: int, text: str) -> str:
        return text.ljust(widths[column]) if column in {0, last} else text.rjust(widths[column])

    lines = ["  ".join(place(column, text) for column, text in enumerate(row)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def page(groups: Sequence[tuple[str, Sequence[Measured]]], played: Sequence[Played] = ()) -> str:
    """Return `docs/performance.md`."""
    measured = [each for _, cases in groups for each in cases]
    sections = [section for title, cases in groups for section in _group(title, cases)]
    return with_played("\n".join([*_head(measured), *sections]) + "\n", played)


def with_played(text: str, played: Sequence[Played]) -> str:
    """Return the page with these tables in place of the sections to which they belong."""
    parts = [text, *("" for _ in SECTIONS)]
    for number, begin in reversed(list(enumerate(SECTIONS.values(), 1))):
        heading = "\n".join(begin.splitlines()[:2]) + "\n"  # the text below it may be of an earlier version
        parts[0], found, rest = parts[0].partition(heading)
        parts[number] = found + rest
    for number, (section, begin) in enumerate(SECTIONS.items(), 1):
        mine = [each for each in played if section_of(each[0]) == section]
        if mine:
            parts[number] = "\n".join([*begin.splitlines(), *(line for each in mine for line in _played(*each))]) + "\n"
    return "".join(parts)


def section_of(table: VirtualTable) -> str:
    """Return the section of a table."""
    return table.key.partition("-")[0]


def _played(table: VirtualTable, rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["", f"### {table.title} (`{table.key}`)", "", table.note, "", *_markdown(rows)]
    return [*lines, "", *(f"- {remark}" for remark in table.remarks)] if table.remarks else lines


def _head(measured: Sequence[Measured]) -> list[str]:
    judged = [figure.is_met(case.unit) for case, figures in measured for figure in figures]
    return _INTRODUCTION.format(
        today=dt.datetime.now(dt.UTC).date().isoformat(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        machine=_machine(),
        versions=", ".join(f"{name} {version}" for name in _PEERS if (version := _version(name))),
        met=judged.count(True),
        judged=judged.count(True) + judged.count(False),
    ).splitlines()


def _group(title: str, cases: Sequence[Measured]) -> list[str]:
    lines = ["", f"## {title}"]
    for case, figures in cases:
        lines += ["", f"### {case.title} (`{case.key}`)", ""]
        lines += [case.note, ""] if case.note else []
        lines += _markdown(cells(case, figures))
        lines += ["", *_setups(figures)]
    return lines


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    ruler = "|---|" + "---:|" * (len(rows[0]) - 2) + "---|"
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], ruler, *lines[1:]]


def _setups(figures: Sequence[Figure]) -> list[str]:
    return [f"- {figure.contender.name}: {figure.contender.how}" for figure in figures if figure.contender.how]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = (line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line)
        model = next(named, model)
    return f"{platform.system()} on {os.cpu_count()} cores ({model})"
