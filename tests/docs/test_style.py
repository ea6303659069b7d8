"""The pages keep the rules of docs/style.md that a program can check."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = [page for page in PAGES if page.name not in {"style.md", "performance.md"}]
"""All pages but the one that quotes the words, and the one that a program writes."""
LONGEST = 35
FORBIDDEN = re.compile(
    r"\b(?:told|tells?|telling|whoever|those who|for who|nobody|somebody|as above|see above|do(?:es)? the same)\b"
    r"|\bwhere (?:it|there|they|that|none|no|nothing|one|both|either|neither)\b",
    re.IGNORECASE,
)


def prose(page: Path) -> str:
    """Return the text of a page without code, comments, pictures and addresses."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->|<a id=[^>]+></a>|^!\[.*$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`\n]+`", "`code`", text))


def sentences(page: Path) -> Iterator[str]:
    """Yield the sentences of paragraphs and items of lists. A colon or a semicolon ends a sentence here."""
    text = re.sub(r"^[|#].*$", "", prose(page), flags=re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:-|\d+\.) )", text):
        yield from re.split(r"(?<=[.!?:;])[)*_\"]*\s+", " ".join(paragraph.split()))


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_a_page_has_none_of_the_words_to_avoid(page: Path) -> None:
    """A page names its actors and writes its conditions with *if*: so it has none of these words."""
    lines = [line for line in prose(page).splitlines() if FORBIDDEN.search(line)]
    assert lines == []


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_sentences_are_short(page: Path) -> None:
    """A sentence has at most 35 words."""
    assert [sentence for sentence in sentences(page) if len(sentence.split()) > LONGEST] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_one_title_and_no_step_between_headings(page: Path) -> None:
    """A page begins with its title, has no other one, and its headings go down one level at a time."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
    assert text.startswith("# ")
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
