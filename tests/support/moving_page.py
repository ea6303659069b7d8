"""docs/howto/moving-from-other-libraries.md, as its tests read it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

__all__ = ("check_rows", "example", "library")

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "moving-from-other-libraries.md").read_text()
ROW = re.compile(
    r'^\| <a id="([a-z-]+)"></a>([^|]+) \| ([^|]+) \| ([^|]*) '
    r"\| \[test\]\(\.\./\.\./tests/docs/(\w+\.py)#(test_\w+)\) \|$",
    re.MULTILINE,
)
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def check_rows(heading: str, tests: str) -> None:
    """Assert that each difference listed below `heading` has an anchor and a test of that name in the file `tests`."""
    table = PAGE.partition(heading)[2].partition("\n### ")[0]
    rows = ROW.findall(table)
    assert 0 < len(rows) == table.count("\n| <a") == len(set(rows))
    here = {node.name for node in ast.parse(Path(tests).read_text()).body if isinstance(node, _FUNCTIONS)}
    for anchor, theirs, ours, _, file, test in rows:
        assert file == Path(tests).name
        assert test == f"test_{anchor.replace('-', '_')}"
        assert test in here
        assert theirs.strip() != ours.strip()


def library(name: str) -> Any:
    """Return a module of another library, where it is installed."""
    return pytest.importorskip(name, reason="it is in the group `peers`")


def example(word: str) -> dict[str, Any]:
    """Run the example that has `word`, and return what it defines."""
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(next(code for code in EXAMPLES if word in code), namespace)  # noqa: S102 - the page's own example
    return namespace
