"""The example of docs/howto/prometheus.md prints the lines that the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "prometheus.md").read_text()


def test_the_lines_are_those_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    """The text of the page is the output of its example."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    shown, _ = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    exec(example, {})  # noqa: S102 - the page's own example
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(shown.splitlines())
