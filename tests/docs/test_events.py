"""docs/events.md and the code name the same events."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilience.breaker import _report

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "events.md"
SOURCES = [*sorted((ROOT / "resilience").rglob("*.py")), *sorted((ROOT / "adapters").rglob("*.py"))]
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}
KIND = re.compile(r"[a-z]+(?:_[a-z]+)*\.[a-z]+(?:_[a-z]+)*")
SEVERITIES = {"debug", "info", "warning", "error"}
PARTS = {"fleet", "health", "lifecycle", "pool"}
"""Parts that are no policy and tell events of their own."""


@functools.cache
def calls_by_name() -> dict[str, list[tuple[Path, ast.Call]]]:
    """Return every call in the sources, by the name of its method or class, with its folder."""
    found: dict[str, list[tuple[Path, ast.Call]]] = {}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                found.setdefault(name, []).append((path.parent, node))
    return found


def calls(*methods: str, folder: Path | None = None) -> Iterator[ast.Call]:
    """Yield every call of a method or class of one of these names, in the sources of that folder."""
    for method in methods:
        yield from (node for where, node in calls_by_name().get(method, ()) if folder in {None, where})


@functools.cache
def policy_kinds(folder: Path | None = None) -> set[str]:
    """Return what the classes of a folder call themselves: `kind = "..."`."""
    found = set()
    for path, tree in TREES.items():
        for node in ast.walk(tree) if folder in {None, path.parent} else ():
            if isinstance(node, ast.ClassDef):
                found |= {each.value.value for each in node.body if is_kind(each)}  # type: ignore[attr-defined]  # narrowed there
    return found - {"policy"}


def is_kind(node: ast.stmt) -> bool:
    named = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    is_text = isinstance(getattr(node, "value", None), ast.Constant) and isinstance(node.value.value, str)  # type: ignore[attr-defined]  # it has one
    return is_text and any(isinstance(name, ast.Name) and name.id == "kind" for name in named)


def docstrings(tree: ast.Module) -> set[int]:
    """Return the constants that are statements by themselves."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def constants(prefixes: set[str]) -> set[str]:
    """Return every text in the code that has the form of a kind: names also reach `record` by way of tables."""
    found = set()
    for tree in TREES.values():
        aside = docstrings(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in aside:
                prefix, _, _ = node.value.partition(".")
                if prefix in prefixes and KIND.fullmatch(node.value):
                    found.add(node.value)
    return found


def composed() -> set[str]:
    """Return the kinds made of a name and a text: of the policies of a folder, or of who guards against outages."""
    guarded = {str(call.args[0].value) for call in calls("OutageGuard") if isinstance(call.args[0], ast.Constant)}
    found = set()
    for folder in {path.parent for path in SOURCES}:
        for call in calls("emit", "record", folder=folder):
            if call.args and isinstance(call.args[0], ast.JoinedStr):
                name, what = call.args[0].values
                assert isinstance(name, ast.FormattedValue)
                assert isinstance(what, ast.Constant)
                names = policy_kinds(folder) if ast.unparse(name.value) == "self.kind" else guarded
                found |= {each + str(what.value) for each in names}
    return found


def emitted() -> set[str]:
    return constants(policy_kinds() | PARTS) | composed()


def rows() -> dict[str, tuple[str, str, str]]:
    """Return severity, facts and when of each event in the table."""
    found = re.findall(r"^\| `([^`|]+\.[^`|]+)` \| ([^|]+) \| ([^|]*) \| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
    assert len({kind for kind, *_ in found}) == len(found), "an event has two rows"
    return {kind: (severity.strip(), facts, when.strip()) for kind, severity, facts, when in found}


def test_the_table_and_the_code_name_the_same_events() -> None:
    """Every event the code can tell has a row, and every row is an event of the code."""
    told, described = emitted(), set(rows())
    assert told - described == set(), "not in docs/events.md"
    assert described - told == set(), "in docs/events.md, and nowhere in the code"


def test_a_literal_kind_is_always_found() -> None:
    """What `emit` and `record` are given as plain text is an event of the table: no form of it is overlooked."""
    literal = {
        call.args[0].value
        for call in calls("emit", "record")
        if call.args and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
    }
    assert len(literal) > 10
    assert literal <= set(rows())


def severities_of(kind: str) -> set[str]:
    """Return those that the code names beside this kind as plain text, and those of a circuit's changes."""
    found = set()
    for call in calls("emit", "record"):
        if call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == kind:
            given = [*call.args[3:4], *(word.value for word in call.keywords if word.arg == "severity")]
            found |= {ast.unparse(each).strip("'") for each in given} or {"info"}
    return found | {_report.SEVERITY[state] for state, event in _report.EVENTS.items() if event == kind}


@pytest.mark.parametrize("kind", sorted(rows()))
def test_a_severity_is_the_one_told(kind: str) -> None:
    """The severities of a row are those its events have."""
    told = severities_of(kind)
    if told <= SEVERITIES:  # else it is computed
        assert told in (set(), set(re.findall(r"\w+", rows()[kind][0])))


@pytest.mark.parametrize("kind", sorted(rows()))
def test_a_row_can_be_relied_on(kind: str) -> None:
    """A kind is `<policy kind>.<what happened>`, its severity one of four, and every fact the code names is listed."""
    severity, facts, when = rows()[kind]
    assert KIND.fullmatch(kind)
    assert kind.partition(".")[0] in policy_kinds() | PARTS
    assert set(re.findall(r"[a-z]+", severity)) <= SEVERITIES
    assert when
    named = set(re.findall(r"`(\w+)`", facts))
    for call in calls("emit", "record"):
        if call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == kind:
            assert {word.arg for word in call.keywords if word.arg} - {"severity"} <= named, ast.unparse(call)
