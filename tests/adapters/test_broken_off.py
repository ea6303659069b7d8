"""An answer that has begun when its deadline passes: what the client sees, and what real servers log."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import pytest
from legs import everywhere
from unix_server import SERVERS, Server

pytestmark = pytest.mark.servers

Start = Callable[..., Server]
BROKEN_OFF = "was broken off by its deadline"


@pytest.mark.parametrize("name", everywhere(SERVERS, ["uvicorn", "gunicorn"]))
def test_one_line_and_no_traceback(start: Start, name: str) -> None:
    """A stream is broken off so that its client notices, and each one costs the log one line with the request's id."""
    server = start(name, RESILIENCE_SERVER__DEADLINE="300ms")
    paths = ["slow", "guarded"] * 3
    for number, path in enumerate(paths):
        with pytest.raises(httpx2.RemoteProtocolError):
            server.client.get(f"/{path}", headers={"X-Request-ID": f"{path}-{number}"})
    assert server.get("/livez").status_code == 200
    lines = [server.output.count(f"request {path}-{number} {BROKEN_OFF}") for number, path in enumerate(paths)]
    assert lines == [1] * len(paths)
    assert "Traceback" not in server.output
    assert "Exception in ASGI" not in server.output


@pytest.mark.parametrize("name", SERVERS)
def test_a_late_endpoint_is_no_fault(start: Start, name: str) -> None:
    """A call that fails for lack of time, in a thread whose client has its 504 already, is not logged as a fault."""
    server = start(name, RESILIENCE_SERVER__DEADLINE="100ms")
    assert [server.get("/thread").status_code for _ in range(2)] == [504, 504]
    server.close()
    assert "Traceback" not in server.output
    assert BROKEN_OFF not in server.output
