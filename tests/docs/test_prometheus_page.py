"""The example of docs/howto/prometheus.md prints the lines that the page shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "prometheus.md").read_text()


def test_the_lines_are_those_of_the_page() -> None:
    """The text of the page is the output of its example."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    shown, _ = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60, check=True)
    assert sorted(done.stdout.splitlines()) == sorted(shown.splitlines())
