"""The page on drains is the one the matrix would write, and says what the README says of it."""

from __future__ import annotations

import re
from pathlib import Path

from page import COLUMNS, page
from servers import SERVERS

PAGE = (Path(__file__).parents[2] / "docs" / "drain.md").read_text()


def table() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_has_every_server() -> None:
    """There is a row for each server of the matrix, in its order, and no other."""
    heading, _, *rows = table()
    assert tuple(heading) == COLUMNS
    assert [row[0] for row in rows] == [server.name for server in SERVERS]


def test_nothing_was_lost() -> None:
    """What was measured for the page lost nothing, in any of the three ways of leaving."""
    heading, _, *rows = table()
    lost = [number for number, name in enumerate(heading) if name.endswith("lost")]
    assert len(lost) == 3
    assert {row[number] for row in rows for number in lost} == {"0"}


def test_is_what_would_be_written() -> None:
    """Apart from the figures, the date and the versions, the page is what its generator writes today."""
    assert _without_figures(PAGE) == _without_figures(page([]))


def _without_figures(text: str) -> str:
    kept = [line for line in text.splitlines() if not line.startswith("| ")]
    return re.sub(r"(?m)^Measured on .*$", "", "\n".join(kept))
