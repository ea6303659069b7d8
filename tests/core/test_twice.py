"""tox runs the tests that failed once more, by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

TWICE = Path(__file__).parents[1] / "twice.py"
TESTS = """
from pathlib import Path
def test_right(): pass
def test_hurried():
    if not (mark := Path("ran")).exists():
        mark.touch()
        assert False
"""


UNREACHED = "def unreached():" + "\n    pass" * 99


@pytest.mark.parametrize(
    ("more", "options", "is_well"),
    [
        ("", [], True),
        ("def test_wrong(): assert False", [], False),
        ("", ["--cov=test_some", "--cov-fail-under=1"], True),
        (UNREACHED, ["--cov=test_some", "--cov-fail-under=90"], False),
    ],
)
def test_a_test_that_fails_twice_is_wrong(tmp_path: Path, more: str, options: list[str], *, is_well: bool) -> None:
    """A test that passes by itself fails no leg. One that fails again does, and so does too little coverage."""
    (tmp_path / "test_some.py").write_text(TESTS + more)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    command = [sys.executable, str(TWICE), "-q", "-n", "2", "-p", "no:resilience", *options, "test_some.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode == 0) == is_well, done.stdout
    assert "1 failed, 1 passed" in done.stdout or "2 failed, 1 passed" in done.stdout
    assert done.stdout.count("test_right") == 0
