from __future__ import annotations

import pybreaker
import pytest
from both_breakers import World, moved_by_hand

from resilience import CircuitBreaker


@pytest.fixture(params=[pybreaker.CircuitBreaker, CircuitBreaker], ids=["pybreaker", "ours"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    """Make breakers of either class; each test must pass with both."""
    return World(request.param, moved_by_hand(monkeypatch))
