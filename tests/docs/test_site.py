"""The documentation site builds strictly, loads nothing from elsewhere, and leads to every page and name."""

from __future__ import annotations

import ast
import fcntl
import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("sphinx", reason="it is in the group `docs`")
pytest.importorskip("furo", reason="it is in the group `docs`")

from _site import navigation, reference, states, write

from resilience_demo import _screen
from resilience_demo._script import FULL

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
STRICTLY = ("--fail-on-warning", "--keep-going", "--quiet")
REPORTS = {"_reopen", "_trial_failed", "end_trials", "enter", "half_open"}
"""Methods of the machine of a circuit that get the reason of a transition."""
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "link": "href",
    "use": "href",
    "object": "data",
}
"""The attributes from which a browser loads a file without a click."""


class Page(HTMLParser):
    """The ids, links and loaded files of a built page, and the text of its article."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if given.get(LOADS.get(tag, "")):
            self.loads.append(given[LOADS[tag]])


class Site:
    """A built site."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def pages(self) -> dict[str, Page]:
        found = sorted(self.folder.rglob("*.html"))
        return {path.relative_to(self.folder).as_posix(): Page(path) for path in found}

    def target(self, page: str, link: str) -> tuple[str, str]:
        """Return the file, relative to the site, and the anchor to which a link of a page leads."""
        parts = urlsplit(link)
        path = (self.folder / page).parent / unquote(parts.path) if parts.path else self.folder / page
        return path.resolve().relative_to(self.folder.resolve()).as_posix(), unquote(parts.fragment)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Site:
    """Build the site, once for all processes of the tests."""
    shared = tmp_path_factory.getbasetemp().parent if worker_id != "master" else tmp_path_factory.getbasetemp()
    folder = shared / "site"
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            done = build(ROOT / "docs", folder, "-j", "auto")
            assert done.returncode == 0, done.stderr
    return Site(folder)


def build(source: Path, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run Sphinx as `tox -e docs` does."""
    command = [sys.executable, "-m", "sphinx", *STRICTLY, *options, str(source), str(target)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # twice as fast
    return subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=400, check=False)


def test_the_site_builds_without_a_warning(site: Site) -> None:
    """A warning of the generator is an error, and the built site has a page for each written one."""
    assert {f"{name}.html" for name in ["index", *navigation.page_names()]} <= set(site.pages)


def test_tox_builds_it_strictly() -> None:
    """The leg `docs` of tox builds the site with the same options as this test."""
    (command,) = re.findall(r"python -m sphinx (.+) docs build/site", (ROOT / "tox.ini").read_text())
    assert command.split() == [*STRICTLY]


FAULTS = {
    "[a](nowhere.md)": "nowhere.md",
    "[a](fine.md#nowhere)": "nowhere",
    "[a](#nowhere)": "nowhere",
    "![a](nowhere.svg)": "nowhere.svg",
    "```python\n)(\n```": "",
    "# A second title of the page\n\n#### A heading of the fourth level": "",
}


def test_a_broken_link_anchor_or_picture_fails_the_build(tmp_path: Path) -> None:
    """A link to no page or anchor, a picture that is missing, and a page outside the navigation are errors."""
    (tmp_path / "index.md").write_text("# Index\n\n```{toctree}\nbroken\n```\n")
    (tmp_path / "fine.md").write_text("# Fine\n")
    (tmp_path / "broken.md").write_text("# Broken\n\n" + "\n\n".join(FAULTS) + "\n")
    done = build(tmp_path, tmp_path / "out", "-c", str(ROOT / "docs"), "-D", "extensions=myst_parser")
    assert done.returncode != 0
    for expected in (*FAULTS.values(), "fine.md: WARNING: document isn't included in any toctree"):
        assert expected in done.stderr


def test_a_titled_block_shows_its_title(site: Site) -> None:
    """A page of the cookbook shows the name of each file above the code of the file."""
    html = (site.folder / "cookbook" / "flask.html").read_text()
    captions = re.findall(r'<div class="code-block-caption"><span class="caption-text">([^<]+)</span>', html)
    assert captions[:2] == ["orders.py", "gunicorn.conf.py"]


def test_every_page_is_in_the_navigation_once() -> None:
    """Each page of `docs/` is in one section of `docs/_site/nav.toml`: a new page without a place fails here."""
    listed = [name for section in navigation.sections() for name in section.pages]
    assert sorted(listed) == sorted([*navigation.page_names(), "api/index"]), "add the page to docs/_site/nav.toml"


def test_every_link_leads_somewhere(site: Site) -> None:
    """Each link to the site, in pages, navigation and API reference, leads to a file and an anchor that exist."""
    broken = []
    for name, page in site.pages.items():
        for link in {*page.links, *page.loads}:
            if urlsplit(link).scheme or link == "#":
                continue
            path, anchor = site.target(name, link)
            has_anchor = not anchor or path not in site.pages or anchor in site.pages[path].ids
            if not (site.folder / path).exists() or not has_anchor:
                broken.append((name, link))
    assert broken == []


def remote_parts(site: Site) -> Iterator[tuple[str, str]]:
    """Yield each file and address from which a browser would load a part over the network."""
    for name, page in site.pages.items():
        yield from ((name, link) for link in page.loads if urlsplit(link).netloc)
    for path in [*site.folder.rglob("*.css"), *site.folder.rglob("*.svg"), *site.folder.rglob("*.html")]:
        for link in re.findall(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)", path.read_text()):
            yield path.name, link
    for path in site.folder.rglob("*.js"):
        for link in re.findall(
            r"(?:import|fetch|src\s*=|importScripts)\s*\(?['\"]((?:https?:)?//[^'\"]+)", path.read_text()
        ):
            yield path.name, link


def test_no_page_loads_anything_from_elsewhere(site: Site) -> None:
    """No font, script, style or picture of a page comes from another host."""
    assert set(remote_parts(site)) == set()


def test_every_page_is_two_clicks_away(site: Site) -> None:
    """From the first page a reader reaches each page, and the page of each public module, with two clicks."""
    reached = {"index.html"}
    for _ in range(2):
        links = [(name, link) for name in reached for link in site.pages[name].links if not urlsplit(link).scheme]
        reached |= {path for path, _ in (site.target(*link) for link in links) if path in site.pages}
    written = {f"{name}.html" for name in navigation.page_names()}
    assert written | {f"api/{module}.html" for module in reference.public_modules()} <= reached


@pytest.mark.parametrize("module", reference.public_modules())
def test_every_public_name_is_in_the_reference(site: Site, module: str) -> None:
    """Each name in `__all__` of a public module has a description, on the page of that module or of its owner."""
    listed = [each for each in reference.names() if each.module == module]
    assert listed
    described = set().union(*(page.ids for name, page in site.pages.items() if name.startswith("api/")))
    assert {each.path for each in listed} <= described
    assert {each.name for each in listed if not reference.has_docstring(each)} == set()


@pytest.mark.parametrize("path", [path for path, _ in write.generated()], ids=lambda path: path.name)
def test_a_generated_part_is_current(path: Path) -> None:
    """A table or picture of the code is the one that the code has now."""
    assert path.read_text() == dict(write.generated())[path], "run: python docs/_site/write.py"


def test_the_states_name_events_that_exist() -> None:
    """Each event of a transition has a row on the page on events, and each state of a circuit is reached."""
    transitions = [*states.circuit(impatient=True), *states.lifecycle(), *states.redis()]
    rows = (ROOT / "docs" / "events.md").read_text()
    assert [each for each in transitions if each.event and f"| `{each.event}` |" not in rows] == []
    assert {each.after for each in states.circuit(impatient=False)} == {"closed", "open", "half-open", "ramp"}


def test_the_circuit_that_is_driven_is_the_real_one() -> None:
    """Every reason that the machine of a circuit has in its code is the cause of a transition."""
    tree = ast.parse((ROOT / "resilience" / "breaker" / "_machine.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    given = [value for call in calls if call.func.attr in REPORTS for value in call.args]  # type: ignore[attr-defined]  # narrowed above
    reasons = {value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)}
    assert len(reasons) >= 8
    assert reasons <= {each.cause for each in states.circuit(impatient=True)}


def test_the_picture_of_the_demo_shows_the_demo_of_today() -> None:
    """The recorded picture has the titles, phases, columns and promises that the screen of the demo has now."""
    source = (ROOT / "docs" / "images" / "demo.svg").read_text()
    picture = html.unescape(re.sub(r"<[^>]+>", "", source)).replace("\xa0", " ")
    assert all(title in picture for title in _screen._TITLES.values())
    assert all(phase.words in picture for phase in FULL.phases[:-1])
    assert all(phase.name in picture for phase in FULL.phases)
    assert all(name in picture for name in (*_screen._COLUMNS, "inside the payments pipeline"))
    assert picture.count("✓ catalogue stays up:") == 1


def test_llms_txt_lists_every_page(site: Site) -> None:
    """llms.txt has a line with a sentence for each page, and the Markdown of each page is in the site."""
    lines = re.findall(r"^- \[([^\]]+)\]\(([^)]+)\.md\): (.+)$", (site.folder / "llms.txt").read_text(), re.MULTILINE)
    assert sorted(page for _, page, _ in lines) == navigation.page_names()
    assert [page for _, page, sentence in lines if not re.fullmatch(r"[^|<>]{15,300}\.", sentence)] == []
    assert all(
        (site.folder / f"{page}.md").read_text() == (ROOT / "docs" / f"{page}.md").read_text() for _, page, _ in lines
    )
    whole = (site.folder / "llms-full.txt").read_text()
    assert all(f"\n# {title}\n" in whole for title, _, _ in lines)
