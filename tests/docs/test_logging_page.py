"""docs/howto/logging.md lists the lines that the code writes."""

import logging
import re
from pathlib import Path

from resilience.config._schema import section
from resilience.event_log import _lines
from resilience.event_log._lines import Volume

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "logging.md").read_text()
LOGGED = {Volume.TRANSITION: "each", Volume.SAMPLE: "sample"}


def test_the_table_and_the_code_name_the_same_lines() -> None:
    """Every event that is logged by default has a row with its level and its volume, and every row is such an event."""
    rows = re.findall(r"^\| `(\w+\.\w+)` \| ([A-Z]+) \| (\w+) \|$", PAGE, re.MULTILINE)
    lines = {kind: line for kind, line in _lines.LINES.items() if line.volume is not Volume.DETAIL}
    assert rows == [(kind, logging.getLevelName(line.level), LOGGED[line.volume]) for kind, line in lines.items()]


def test_the_defaults_are_those_of_the_code() -> None:
    """The page states the default of each variable."""
    for name, default in (("events", "transitions"), ("interval", "60s")):
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `RESILIENCE_LOG__{name.upper()}`"))
        assert f"| `{default}` |" in row
        assert section("log").fields[name].default == (60.0 if name == "interval" else default)
