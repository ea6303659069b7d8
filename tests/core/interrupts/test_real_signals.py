"""Thousands of guarded calls under a timer whose signal handler raises: a cross-check of `test_every_point.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.realtime


def test_real_signals_leave_the_policies_as_good_as_new() -> None:
    """After thousands of calls under real signals every policy serves as on its first day."""
    script = Path(__file__).with_name("under_real_signals.py")
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)

    assert result.returncode == 0, result.stdout + result.stderr
    assert "struck" in result.stdout
