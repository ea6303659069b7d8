"""Every example in a docstring runs, and shows what it prints."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

PACKAGES = (
    "resilience",
    "resilience_demo",
    "resilience_fastapi",
    "resilience_flask",
    "resilience_grpc",
    "resilience_http",
    "resilience_sql",
)
PROGRAMS = ("resilience.__main__",)


def examples() -> Iterator[doctest.DocTest]:
    """Find the examples of every module, those of private objects too."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for package in PACKAGES:
        root = importlib.import_module(package)
        names = [info.name for info in pkgutil.walk_packages(root.__path__, f"{package}.")]
        for name in (package, *names):
            if name not in PROGRAMS and not name.startswith("resilience_demo."):
                yield from finder.find(importlib.import_module(name))


@pytest.mark.parametrize("example", [each for each in examples() if each.examples], ids=lambda each: str(each.name))
def test_an_example_in_a_docstring_runs(example: doctest.DocTest) -> None:
    """An example raises nothing, and prints the lines below it."""
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)
