"""The switch for the limits of a server: RESILIENCE_SERVER__LIMITS."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask
from starlette.testclient import TestClient

import resilience_fastapi
import resilience_flask
from resilience import Resilience
from resilience.server import ServerGate

VARIABLES = {
    "RESILIENCE_SERVER__RATE_LIMIT": "1/hour",
    "RESILIENCE_SERVER__RATE_LIMIT_HEADERS": "true",
    "RESILIENCE_SERVER__MAX_CONCURRENT_REQUESTS": "1",
}


def unasked(*_arguments: object) -> Any:
    raise AssertionError("the limits are off: no key is needed")


def fastapi_statuses(toolkit: Resilience) -> list[tuple[int, bool]]:
    app = FastAPI(dependencies=[resilience_fastapi.rate_limit("1/hour")])
    resilience_fastapi.install(app, toolkit)
    key = unasked if not toolkit.config.server.limits else None

    @app.get("/", dependencies=[resilience_fastapi.rate_limit("2/day", key=key)])
    def root() -> str:
        return "ok"

    with TestClient(app) as client:
        answers = [client.get("/") for _ in range(3)]
    return [(answer.status_code, "ratelimit" in answer.headers) for answer in answers]


def flask_statuses(toolkit: Resilience) -> list[tuple[int, bool]]:
    app = Flask("shop")
    resilience_flask.FlaskResilience(app, toolkit)
    key = unasked if not toolkit.config.server.limits else None
    app.add_url_rule("/", "root", resilience_flask.rate_limit("2/day", key=key)(lambda: "ok"))
    resilience_flask.rate_limit("1/hour")(app)
    answers = [app.test_client().get("/", buffered=True) for _ in range(3)]
    return [(answer.status_code, "RateLimit" in answer.headers) for answer in answers]


@pytest.mark.parametrize("statuses", [fastapi_statuses, flask_statuses])
def test_the_limits_of_server_application_and_route(statuses: Any) -> None:
    """With the switch off, no request is charged or refused, and no key or cost function is called."""
    assert statuses(Resilience.from_env(VARIABLES)) == [(200, True), (429, True), (429, True)]
    assert statuses(Resilience.from_env({**VARIABLES, "RESILIENCE_SERVER__LIMITS": "false"})) == [(200, False)] * 3


def test_the_gate_of_any_server() -> None:
    """The gate of a gRPC server, or of any other, has neither a quota nor a bulkhead with the switch off."""
    on, off = (
        ServerGate.of(Resilience.from_env({**VARIABLES, "RESILIENCE_SERVER__LIMITS": text})) for text in ("on", "off")
    )
    assert (on.quota is None, on.bulkhead is None) == (False, False)
    assert (off.quota, off.bulkhead) == (None, None)
