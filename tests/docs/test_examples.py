"""Every Python example of README and docs runs, in the order of its page."""

import ast
import builtins
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```(\w+)(?: needs=([\w.]+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """Return what runs here: a block with `needs=module` is about a library newer than the oldest we take."""
    found = FENCED.findall(page.read_text())
    return [code for name, module, code in found if name == language and (not module or is_there(module))]


def is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package it would be in
        return False


PEERS = ("flask_limiter", "slowapi", "stamina")
"""Libraries that a page uses beside ours. Not every leg has them."""
EXPORT = re.compile(r"^export (RESILIENCE_PIPELINE__\w+)=(\S+)$", re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_examples_run(page: Path) -> None:
    """The examples of a page run one after the other, without a warning, with the pipelines that the page exports."""
    code = "\n\n".join(blocks(page, "python"))
    for other in PEERS:
        if re.search(rf"^(from|import) {other}\b", code, re.MULTILINE):
            pytest.importorskip(other, reason="it is in the group `peers`")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RESILIENCE_")}
    environment |= dict(EXPORT.findall("\n".join(blocks(page, "sh"))))
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run_alone_or_the_page_says_so(page: Path) -> None:
    """A page whose examples use names of earlier ones tells whoever lands in the middle of it."""
    text = page.read_text()
    borrowed = [names for names in map(names_from_elsewhere, blocks(page, "python")) if names]
    assert not borrowed or "The examples of this page continue each other." in text, borrowed


def names_from_elsewhere(code: str) -> set[str]:
    """Return the names a block reads and nowhere binds."""
    read, bound = set(), set(dir(builtins))
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(ctx=ast.Load()):
                read.add(node.id)
            case ast.Name():
                bound.add(node.id)
            case ast.alias():
                bound.add((node.asname or node.name).partition(".")[0])
            case ast.arg():
                bound.add(node.arg)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.ExceptHandler():
                bound.add(node.name or "")
    return read - bound


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """A link to another file of the repository leads to one that exists."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
