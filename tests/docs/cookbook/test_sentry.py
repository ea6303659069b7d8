"""docs/cookbook/sentry.md: the real SDK sends its envelopes to a server on loopback."""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cookbook import Dependency, Recipe
from http_upstreams import serving

pytest.importorskip("sentry_sdk", reason="sentry-sdk is in the group `cookbook`")
pytestmark = [pytest.mark.servers, pytest.mark.once]

PAGE = Recipe("sentry")
WORKER = """

def in_a_worker() -> str:
    try:
        raise RateLimitedError("no", policy="prices.ratelimit")
    except RejectedError as error:
        sentry_sdk.capture_exception(error)
    return "reported"

from resilience import RateLimitedError
app.get("/worker")(in_a_worker)
NO_PRICE = toolkit.catalog.define("ORDERS_P001", "There is no price.", http_status=503)

def coded() -> None:
    sentry_sdk.capture_exception(NO_PRICE())

app.get("/coded")(coded)
"""


class Sentry:
    """Takes envelopes as Sentry does, and keeps their events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        if dict(scope["headers"]).get(b"content-encoding") == b"gzip":
            body = gzip.decompress(body)
        lines = body.split(b"\n")
        self.events += [
            json.loads(payload)
            for header, payload in itertools.pairwise(lines)
            if header.startswith(b'{"type":"event"')
        ]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Wait for events, take them, and see that no other one follows."""
        end = time.monotonic() + 10
        while len(self.events) < count:
            assert time.monotonic() < end, self.events
            time.sleep(0.02)
        time.sleep(0.1)
        taken, self.events = self.events, []
        assert len(taken) == count, taken
        return taken


def line_of(event: dict[str, Any]) -> str:
    """Return what a reader of the issue sees first."""
    errors = event.get("exception", {}).get("values", [])
    named = f"{errors[-1]['type']} {errors[-1]['value'].splitlines()[0]}" if errors else event["message"]
    return f"{event['level']} {named}"


def test_an_outage_is_one_issue(tmp_path: Path) -> None:
    """A bug and an open circuit are one event each; a hundred refusals are none, also if code reports them."""
    sentry = Sentry()
    PAGE.files["orders.py"] += WORKER
    with (
        Dependency.served() as (prices, url),
        serving(sentry) as place,
        PAGE.started("uvicorn", tmp_path, PRICES_URL=url, SENTRY_DSN=place.replace("//", "//key@") + "/1") as server,
    ):
        server.answers("/readyz", 200)
        assert server.ask("/orders/tea")[0] == 500
        (bug,) = sentry.wait_for(1)
        PAGE.shows("the event of a bug", f"{line_of(bug)} request_id={bug['tags']['request_id']}")

        prices.status = 503
        for _ in range(100):
            server.ask("/orders/tea")
        assert json.loads(server.ask("/orders/tea")[1])["code"] == "CIRCUIT_OPEN"
        events = sentry.wait_for(3)
        shown = "\n".join(map(line_of, events)).replace(url, "http://prices.internal:8080")
        PAGE.shows("the events of an outage", shown)
        assert events[-1]["fingerprint"] == ["breaker.opened", "prices.breaker"]

        assert server.ask("/worker") == (200, '"reported"')
        server.ask("/coded")
        (coded,) = sentry.wait_for(1)
        assert coded["fingerprint"] == ["resilience", "ORDERS_P001"]


ON_FLASK = """
import sentry_sdk
from flask import Flask
from sentry_sdk.integrations.flask import FlaskIntegration
from sentry_sdk.transport import Transport
from resilience import CircuitOpenError
from resilience_flask import FlaskResilience

sent = []

class Kept(Transport):
    def capture_envelope(self, envelope):
        sent.extend(item for item in envelope.items if item.type == "event")

only = [FlaskIntegration()]  # by default the SDK imports each framework that is installed, for seconds
sentry_sdk.init(dsn="http://key@127.0.0.1/1", transport=Kept, auto_enabling_integrations=False, integrations=only)
app = Flask("shop")
FlaskResilience(app)

@app.get("/refused")
def refused():
    raise CircuitOpenError("open", policy="prices")

@app.get("/bug")
def bug():
    raise ValueError("a bug")

client = app.test_client()
print([(client.get(path).status_code, len(sent)) for path in ("/refused", "/refused", "/bug")])
"""


def test_a_refusal_that_flask_answers_is_no_event() -> None:
    """Without the settings of the page, a refused request of Flask sends nothing, and a bug one event."""
    command = [sys.executable, "-c", ON_FLASK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[(503, 0), (503, 0), (500, 1)]\n", done.stderr
