"""Every difference from pybreaker that the page tells of is shown by a test, and every such test is told of."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "moving-from-pybreaker.md").read_text()
TESTS = ROOT / "tests" / "core" / "breaker" / "test_differences.py"
ROW = re.compile(
    r'^\| <a id="([a-z-]+)"></a>([^|]+) \| ([^|]+) \| ([^|]*) '
    r"\| \[test\]\(\.\./\.\./tests/core/breaker/test_differences\.py#(test_\w+)\) \|$",
    re.MULTILINE,
)
ROWS = {test: (anchor, theirs, ours) for anchor, theirs, ours, _, test in ROW.findall(PAGE)}


def shown() -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the tests of differences by name."""
    functions = (
        node for node in ast.parse(TESTS.read_text()).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return {node.name: node for node in functions if node.name.startswith("test_")}


def test_rows_and_tests_are_the_same() -> None:
    """Each line of a table is a row with an anchor of its own, each row has its test, and each test its row."""
    lines = [
        line for line in PAGE.splitlines() if line.startswith("|") and not line.startswith(("| pybreaker", "|---"))
    ]
    assert len(lines) == len(ROWS) == len({anchor for anchor, *_ in ROWS.values()})
    assert set(ROWS) == set(shown())


@pytest.mark.parametrize("name", sorted(ROWS))
def test_both_are_shown(name: str) -> None:
    """The test of a row runs pybreaker's class and ours, and asserts something."""
    body = list(ast.walk(shown()[name]))
    assert {"Theirs", "Ours"} <= {node.id for node in body if isinstance(node, ast.Name)}
    assert any(isinstance(node, ast.Assert) for node in body)
    anchor, theirs, ours = ROWS[name]
    assert name == f"test_{anchor.replace('-', '_')}"
    assert theirs.strip() != ours.strip()
