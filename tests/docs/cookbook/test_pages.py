"""The pages of docs/cookbook have one form, and each of them has a test that runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cookbook import FOLDER, LONGEST_MAIN_FILE, Recipe

INDEX = (FOLDER / "index.md").read_text()
NAMES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")


def lines_of_code(source: str) -> int:
    """Return the lines that are not empty."""
    return sum(1 for line in source.splitlines() if line.strip())


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_its_parts(name: str) -> None:
    """A page has an application of at most 40 lines, its behaviour in an outage, and the ways that are wrong."""
    recipe = Recipe(name)
    main = next(iter(recipe.files.values()))
    assert 0 < lines_of_code(main) <= LONGEST_MAIN_FILE
    assert recipe.outputs
    assert all(f"`{name}`" in recipe.text for name in recipe.files)  # GitHub does not show the title of a block
    for heading in ("## Variables", "## In an outage", "## Wrong ways"):
        assert f"\n{heading}\n" in recipe.text, heading


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_executed_and_listed(name: str) -> None:
    """A test of the page's name checks each output that it shows, and the index has a link to it."""
    test = Path(__file__).with_name(f"test_{name.replace('-', '_')}.py").read_text()
    assert f'Recipe("{name}")' in test
    for title in Recipe(name).outputs:
        assert f'shows("{title}"' in test, title
    assert f"]({name}.md)" in INDEX
