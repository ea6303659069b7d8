"""docs/comparison.md claims nothing that no test shows."""

import ast
import functools
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "comparison.md").read_text()
ROW = re.compile(r"^\| (?!\||---)(.+?) \| (.+) \|$", re.MULTILINE)
HERE = re.compile(r"\[yes\]\([^)]+\)|yes: \[1\]\([^)]+\)(?:, \[\d\]\([^)]+\))+")
TEST = re.compile(r"\]\(\.\./(tests/[\w/]+\.py)#(\w+)\)")
ANSWER = re.compile(r"(?:yes|no)(?:: [^|]+)?|partly: [^|]+|\?|-")


def rows() -> dict[str, list[str]]:
    """Return the cells of each feature, the tests first."""
    found = [(feature, re.split(r"(?<!\\) \| ", cells)) for feature, cells in ROW.findall(PAGE)]
    assert len({feature for feature, _ in found}) == len(found), "a feature has two rows"
    return dict(found)


@functools.cache
def names_in(path: str) -> set[str]:
    """Return the names a module's tests have, those of state machines included."""
    tree = ast.parse((ROOT / path).read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return functions | {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("feature", rows())
def test_every_feature_links_to_its_tests(feature: str) -> None:
    """The second cell of a row is `[yes](../tests/...py#test_name)`, or `yes: [1](...), [2](...)`, and they exist."""
    here = rows()[feature][0]
    assert HERE.fullmatch(here), here
    named = TEST.findall(here)
    assert len(named) == here.count("](")
    for path, name in named:
        assert (ROOT / path).exists(), path
        assert name.lower().startswith("test")
        assert name in names_in(path), f"{path}#{name}"


@pytest.mark.parametrize("feature", rows())
def test_what_is_said_of_others_is_one_of_five_answers(feature: str) -> None:
    """A peer's cell is yes, no, partly, not looked at, or not applicable; "partly" says what there is."""
    for answer in rows()[feature][1:]:
        assert ANSWER.fullmatch(answer), answer
