"""Measure the requests that each server loses in a drain: `python tests/drain/matrix.py [--write] [--only NAME]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from measure import Measured, measure  # noqa: E402 - found only now
from page import COLUMNS, page, rows  # noqa: E402
from servers import SERVERS, Server  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "drain.md"


def main() -> int:
    """Measure, show, and write the page if asked to. Return 1 if a request was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/drain.md")
    parser.add_argument("--only", default="", metavar="NAME", help="only servers with NAME in theirs")
    wanted = parser.parse_args()
    measured = [_measured(server) for server in SERVERS if wanted.only in server.name]
    if wanted.write:
        PAGE.write_text(page(measured))
    return int(any(each.drained.lost or each.hurried.lost or each.forced.lost for each in measured))


def _measured(server: Server) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        found = measure(server, Path(folder))
    (row,) = rows([found])
    print(f"{row[0]:36}", ", ".join(f"{name} {cell}" for name, cell in zip(COLUMNS[1:], row[1:], strict=True)))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
