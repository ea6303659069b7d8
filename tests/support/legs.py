"""Marks that distribute the cases of a long parametrised test over the legs of tox."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet  # what `pytest.param` returns

__all__ = ("everywhere", "sampled")


def sampled(cases: Iterable[Any], every: int) -> list[Any]:
    """Return all cases for the whole run, and of those only each `every`-th for the other legs."""
    return [case if number % every == 0 else _marked(case, pytest.mark.once) for number, case in enumerate(cases)]


def everywhere(cases: Iterable[Any], chosen: Collection[Any]) -> list[Any]:
    """Return all cases, and let the chosen ones run on every leg."""
    return [_marked(case, pytest.mark.everywhere) if case in chosen else case for case in cases]


def _marked(case: Any, mark: pytest.MarkDecorator) -> Any:
    if isinstance(case, ParameterSet):
        return pytest.param(*case.values, id=case.id, marks=(*case.marks, mark))
    return pytest.param(case, marks=mark)
