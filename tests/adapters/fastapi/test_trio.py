"""Applications that a server runs on trio."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from fastapi import FastAPI

from resilience import ConfigurationError
from resilience_fastapi import install

ADVICE = "run the coroutine on asyncio, or make the call in blocking code, in a thread"


async def hello() -> str:
    """Answer at once."""
    return "hello"


async def asked(browse: Any, app: Any) -> tuple[int, str]:
    """Return status and code of the answer to a request."""
    async with browse(app) as client:
        response = await client.get("/")
    body = response.json()
    return response.status_code, body if isinstance(body, str) else body["code"]


def test_lifespan_under_trio_is_refused(toolkit: Any) -> None:
    """A server that runs the lifespan on trio does not come up, and says why."""
    app = FastAPI()
    install(app, toolkit())

    async def start() -> str:
        with pytest.raises(ConfigurationError) as caught:
            async with app.router.lifespan_context(app):
                raise AssertionError("the application was started")
        return str(caught.value)

    assert trio.run(start) == f"Lifecycle needs asyncio, and this coroutine runs under trio; {ADVICE}"


@pytest.mark.parametrize(
    ("settings", "answer"), [({}, (200, "hello")), ({"server__deadline": "5s"}, (500, "CONFIGURATION"))]
)
def test_request_with_a_deadline_is_refused_on_trio(
    browse: Any, toolkit: Any, settings: dict[str, str], answer: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Without a lifespan, a request is served on trio if it has no deadline; the log names the cause of the others."""
    app, resilience = FastAPI(), toolkit(**settings)
    app.get("/")(hello)
    install(app, resilience)

    assert trio.run(asked, browse, app) == answer
    assert resilience.lifecycle.in_flight == 0
    assert ("ConfigurationError" in caplog.text) == (answer[0] == 500)
