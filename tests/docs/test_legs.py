"""CONTRIBUTING.md says what each leg of tox runs, and tox.ini does so."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
TOX = configparser.RawConfigParser()
TOX.read(ROOT / "tox.ini")
TABLE = (ROOT / "CONTRIBUTING.md").read_text().partition("## What runs where")[2].partition("\n## ")[0]
MARKERS = {
    text.partition(":")[0]
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
}
LEFT_OUT = {"servers", "realtime", "once"}
ADAPTERS = ("demo", "fastapi", "flask", "grpc")
"""The folders of tests with server processes. The servers that HTTP clients call run inside the tests, on all legs."""


def selection(leg: str) -> str:
    """Return the marker expression of a leg, empty if it runs all tests."""
    found = re.search(r'-m "([^"]+)"', TOX.get(leg, "commands"))
    return found[1] if found else ""


def test_one_leg_runs_all_tests() -> None:
    """The leg `py311` selects nothing, so each test runs on a Python, and the coverage counts all of them."""
    command = TOX.get("testenv:py311", "commands").removeprefix("python tests/twice.py")
    assert not re.search(r" (-m|-k|--ignore|--deselect|tests/)", command)
    assert "--cov-fail-under=95" in command
    assert "`.venv/bin/tox -e py311` runs all tests" in (ROOT / "README.md").read_text()


def test_the_other_legs_leave_out_the_three_kinds_that_the_page_names() -> None:
    """The marks in the selections are those of the table, and all of them are registered."""
    assert set(re.findall(r"^\| `(\w+)` \|", TABLE, re.MULTILINE)) == {*LEFT_OUT, "everywhere", "redis"} <= MARKERS
    assert selection("testenv") == "everywhere or not (servers or realtime or once)"
    assert selection("testenv:min") == "everywhere or redis or not (servers or realtime or once)"


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_each_adapter_meets_a_real_server_on_every_leg(adapter: str) -> None:
    """A test of each adapter that starts server processes has the mark `everywhere`."""
    texts = [path.read_text() for path in (ROOT / "tests" / "adapters" / adapter).glob("test_*.py")]
    assert any("mark.servers" in text and "mark.everywhere" in text for text in texts)
