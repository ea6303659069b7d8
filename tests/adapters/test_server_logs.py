"""The lines of real servers have the form and the ids of ours."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unix_server import Server

pytestmark = pytest.mark.servers

Start = Callable[..., Server]
REQUESTS = {
    "RESILIENCE_LOG__REQUESTS": "true",
    "RESILIENCE_SERVICE__NAME": "small",
    "RESILIENCE_SERVER__TRUSTED_PROXIES": "unix",
}


def lines_of(server: Server) -> list[dict[str, Any]]:
    server.client.get("/route?token=s3cret", headers={"X-Request-ID": "r-1", "X-Forwarded-For": "192.0.2.1"})
    server.client.get("/route", headers={"X-Request-ID": "r-2", "X-Forwarded-For": "192.0.2.1"})
    server.close()
    assert "s3cret" not in server.output
    return [json.loads(line) for line in server.output.splitlines()]


def test_uvicorn(start: Start) -> None:
    """An application that calls `configure_logging()` has one form for all lines, and one access line a request."""
    lines = lines_of(start("uvicorn", CONFIGURES_LOGGING="1", **REQUESTS))
    assert {line["service_name"] for line in lines} == {"small"}
    assert "uvicorn.error" in {line["logger"] for line in lines}
    assert "uvicorn.access" not in {line["logger"] for line in lines}
    served = [line for line in lines if line["logger"] == "resilience.requests"]
    assert [(line["request_id"], line["http_status"], line["http_route"]) for line in served] == [
        ("r-1", 200, "/route"),
        ("r-2", 429, "/route"),
    ]
    refused = [line for line in lines if line.get("resilience_event") == "ratelimit.rejected"]
    assert [(line["request_id"], line["level"]) for line in refused] == [("r-2", "warning")]


def test_uvicorn_keeps_its_own_access_lines(start: Start) -> None:
    """Without `requests` the access lines of uvicorn stay, as JSON and without the secret of the query."""
    lines = lines_of(start("uvicorn", CONFIGURES_LOGGING="1"))
    assert [line["event"] for line in lines if line["logger"] == "uvicorn.access"][-2] == (
        ' - "GET /route?token=*** HTTP/1.1" 200'
    )


def test_gunicorn(start: Start, tmp_path: Path) -> None:
    """A `logconfig_dict` in the configuration file of gunicorn covers the lines of the master and of the workers."""
    file = tmp_path / "gunicorn_conf.py"
    file.write_text("from resilience.logs import logging_config\n\nlogconfig_dict = logging_config()\n")
    lines = lines_of(start("gunicorn-sync", GUNICORN_CMD_ARGS=f"-c {file} --access-logfile -", **REQUESTS))
    assert {line["service_name"] for line in lines} == {"small"}
    assert any(line["event"].startswith("Starting gunicorn") for line in lines)
    assert "gunicorn.access" not in {line["logger"] for line in lines}
    served = [line for line in lines if line["logger"] == "resilience.requests"]
    assert [(line["request_id"], line["http_status"]) for line in served] == [("r-1", 200), ("r-2", 429)]
    assert len({line["process"] for line in lines}) > 1
    assert logging.getLogger("resilience.requests").handlers == []
