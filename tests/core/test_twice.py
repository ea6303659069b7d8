"""tox runs the tests that failed once more, by themselves."""

from __future__ import annotations

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


@pytest.mark.parametrize(("more", "status"), [("", 0), ("def test_wrong(): assert False", 1)])
def test_a_test_that_fails_twice_is_wrong(tmp_path: Path, more: str, status: int) -> None:
    """A test that passes by itself fails no leg, and one that fails again does."""
    (tmp_path / "test_some.py").write_text(TESTS + more)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    command = [sys.executable, str(TWICE), "-q", "-n", "2", "-p", "no:resilience", "test_some.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == status, done.stdout
    assert "1 failed, 1 passed" in done.stdout or "2 failed, 1 passed" in done.stdout
    assert done.stdout.count("test_right") == 0
