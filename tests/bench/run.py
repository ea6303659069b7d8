"""Measure what guarded calls cost: `python tests/bench/run.py`.

    --quick        a few seconds a table: to see that it runs, and roughly where it stands
    --only CASE    one table, or all whose name starts with CASE (again for more); --list names them
    --write        write docs/performance.md (measures everything, about three minutes)
    --only scenarios [--write], --only fleet [--write]
                   play these sections alone: virtual time, the same figures everywhere, so they may be written alone

Never part of a pytest run. Libraries to compare with come from `pip install --group bench`; what is missing is left
out, with the reason in its row. A machine that does nothing else gives the best figures; a busy one gives usable ones,
because every figure is held against the bare call of the same moment.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "performance.md"
for home in (HERE, HERE.parent / "support"):
    if str(home) not in sys.path:  # PYTHONSAFEPATH leaves the script's own directory out
        sys.path.insert(0, str(home))

from fleet_model import FLEET  # noqa: E402 - the path comes first
from harness import Case, Effort, Figure, Session, measure  # noqa: E402 - see above
from report import Played, VirtualTable, aligned, cells, page, section_of, with_played  # noqa: E402 - see above
from scenarios import SCENARIOS  # noqa: E402 - see above

__all__ = ("GROUPS", "main")

GROUPS = {
    "Circuit breaker": "cases_breaker",
    "Retry": "cases_retry",
    "Hedge": "cases_hedge",
    "Cache and single flight": "cases_cache",
    "Rate limit": "cases_limiter",
    "Rate limit in several processes": "cases_processes",
    "Connection pool": "cases_pool",
    "Rate limit with many callers": "cases_callers",
    "Policies together": "cases_chain",
    "Web": "cases_web",
    "Flask": "cases_flask",
    "gRPC": "cases_grpc",
    "Telemetry": "cases_telemetry",
    "Start-up": "cases_imports",
}
Group = tuple[str, list[Case]]


def load() -> list[Group]:
    """Return every group with its cases."""
    return [(title, list(importlib.import_module(module).CASES)) for title, module in GROUPS.items()]


def chosen(groups: Sequence[Group], only: Sequence[str]) -> list[Group]:
    """Return the cases whose key starts with one of `only`; all of them for none."""
    picked = [
        (title, [case for case in cases if not only or case.key.startswith(tuple(only))]) for title, cases in groups
    ]
    return [(title, cases) for title, cases in picked if cases]


def main(
    arguments: Sequence[str] | None = None,
    groups: Sequence[Group] | None = None,
    virtual: Sequence[VirtualTable] = (*SCENARIOS, *FLEET),
) -> int:
    """Measure, print, and write the page where asked to."""
    parser = _parser()
    options = parser.parse_args(arguments)
    known = load() if groups is None else groups
    every: list[Case | VirtualTable] = [*(case for _, cases in known for case in cases), *virtual]
    if options.list:
        print("\n".join(f"{each.key:20} {each.title}" for each in every))
        return 0
    wanted = chosen(known, options.only)
    to_play = [each for each in virtual if not options.only or each.key.startswith(tuple(options.only))]
    if not wanted and not to_play:
        keys = ", ".join(each.key for each in every)
        parser.error(f"--only {' '.join(options.only)}: no such case; there are {keys}")
    sections = {section_of(each) for each in to_play}
    is_partial = options.only and (wanted or len(to_play) < sum(section_of(each) in sections for each in virtual))
    if options.write and (options.quick or is_partial):
        parser.error("--write publishes figures: it measures everything (or plays a whole section), and not quickly")
    measured = [
        (title, list(_measured(cases, Effort.quick() if options.quick else Effort()))) for title, cases in wanted
    ]
    played = list(_played(to_play))
    if options.write:
        text = page(measured, played) if wanted else with_played(PAGE.read_text(encoding="utf-8"), played)
        PAGE.write_text(text, encoding="utf-8")
        print(f"written: {PAGE}")
    return 0


def _played(tables: Sequence[VirtualTable]) -> Iterator[Played]:
    for table in tables:
        rows = list(table.rows())
        print(f"\n{table.title} [{table.key}]\n{aligned(rows)}", flush=True)
        yield table, rows


def _measured(cases: Sequence[Case], effort: Effort) -> Iterator[tuple[Case, list[Figure]]]:
    for case in cases:
        # A session for each case: no server or loop of an earlier one takes time from the next.
        with Session(effort) as session:
            figures = measure(case, session)
        print(f"\n{case.title} [{case.key}]\n{aligned(cells(case, figures))}", flush=True)
        yield case, figures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run.py", description="Measure what guarded calls cost.")
    parser.add_argument("--quick", action="store_true", help="measure briefly")
    parser.add_argument("--only", action="append", default=[], metavar="CASE", help="measure these tables alone")
    parser.add_argument("--list", action="store_true", help="name the tables")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
