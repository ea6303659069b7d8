"""Every server of the matrix, as real processes on loopback: docs/drain.md has its figures."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from legs import everywhere
from measure import DELAY, LONG, PATIENT, SHORT_LIMIT, STUCK, Measured, measure
from servers import SERVERS, Server

pytestmark = [pytest.mark.servers, pytest.mark.realtime]

ORDERLY = {0, -signal.SIGTERM}
ON_EVERY_LEG = {"uvicorn", "gunicorn gthread", "hypercorn -w 0", "grpc sync", "grpc aio"}
"""One server of each kind: event loops drain differently from Python 3.12 on, and so do older servers."""
_SLACK = 3.0
"""Seconds that a busy machine may add to anything."""


@pytest.mark.parametrize(
    "server",
    everywhere(SERVERS, [server for server in SERVERS if server.name in ON_EVERY_LEG]),
    ids=lambda server: server.name.replace(" ", "_"),
)
def test_nothing_is_lost(server: Server, tmp_path: Path) -> None:
    """SIGTERM under load loses no request, a second one ends the delay, and a request without end ends at the limit."""
    if not server.is_there:
        pytest.skip(f"{server.module} is not installed")
    found = measure(server, tmp_path)
    check_drained(found)
    check_hurried(found)
    check_forced(found)


def check_drained(found: Measured) -> None:
    drained = found.drained
    assert drained.lost == (), drained.output
    assert drained.answered > 5
    assert drained.late > 0
    assert drained.noticed < DELAY
    assert drained.took < max(DELAY, LONG) + _SLACK
    assert (drained.status in ORDERLY, drained.hooks_ran) == (True, True), drained.output


def check_hurried(found: Measured) -> None:
    hurried = found.hurried
    assert hurried.lost == (), hurried.output
    assert hurried.took < PATIENT
    assert (hurried.status in ORDERLY, hurried.hooks_ran) == (True, True), hurried.output


def check_forced(found: Measured) -> None:
    forced = found.forced
    assert forced.lost == (), forced.output
    if found.server.waits:
        assert (forced.stuck, forced.took > STUCK - _SLACK) == (0, True), forced.output
    else:
        assert (forced.stuck, forced.took < SHORT_LIMIT + _SLACK) == (1, True), forced.output
    assert forced.hooks_ran or found.server.kills
