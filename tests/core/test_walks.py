"""A reader who follows a call through the code changes the file only so often."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("walks", Path(__file__).parents[1] / "walks.py")
assert _SPEC is not None
assert _SPEC.loader is not None
walks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(walks)
# Before the rooms were ordered: success 2, failure 19, opening 31, refusal 3, retry 71, fastapi 18, grpc 21.
# The log of events has come since then.
MOST_MOVES = {
    "success": 2,
    "failure": 9,
    "opening": 16,
    "opening_logged": 45,
    "refusal": 3,
    "retry": 35,
    "fastapi": 15,
    "grpc": 15,
    # With two for the limiter, whose decisions are measured, twelve for the section `events`, and three for the one
    # function that compares two options.
    "environment": 280,
}


# A server's thread may still be on its way when the walk ends.
@pytest.mark.parametrize("name", [pytest.param(each, marks=pytest.mark.servers) for each in walks.WALKS])
def test_a_walk_has_few_moves(name: str) -> None:
    """A call visits files of ours in few moves; `python tests/walks.py NAME --steps` shows which."""
    assert walks.WALKS[name]().moves <= MOST_MOVES[name]
