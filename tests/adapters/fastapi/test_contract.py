"""The example's OpenAPI document, held against what the example answers."""

from __future__ import annotations

import json
from typing import Any

import httpx2
from example_modules import load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilience.envelope import ENVELOPE_SCHEMA, JSON_TYPE, PROBLEM_SCHEMA, PROBLEM_TYPE

shop = load("fastapi_shop")
app, toolkit = shop.app, shop.toolkit
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
ORDER = st.fixed_dictionaries({}, optional={"item": st.sampled_from(["tea", "gold"]) | JSON, "quantity": JSON})
BODY = st.one_of(ORDER.map(json.dumps), JSON.map(json.dumps), st.text(max_size=50)).map(str.encode) | st.binary(
    max_size=50
)
OPERATIONS = [(path, method) for path, item in app.openapi()["paths"].items() for method in item]
ACCEPT = st.sampled_from(["*/*", JSON_TYPE, PROBLEM_TYPE, "text/html", "application/problem+json;q=0.1, */*"])


class Unreachable(httpx2.AsyncBaseTransport):
    """The provider's address, with nobody there."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("nobody there", request=request)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    operation=st.sampled_from(OPERATIONS),
    method=st.sampled_from([None, None, None, "PATCH", "DELETE"]),
    body=BODY,
    content_type=st.sampled_from(["application/json", "application/json", "text/plain", "multipart/form-data"]),
    accept=ACCEPT,
)
async def test_errors_are_as_documented(
    operation: tuple[str, str], method: str | None, body: bytes, content_type: str, accept: str
) -> None:
    """Whatever is sent to an operation, an error is an envelope of the documented schema, and no fault of ours."""
    path, documented = operation
    database = shop.Database()
    await database.create()
    async with httpx2.AsyncClient(transport=Unreachable(), base_url="http://provider.example") as nobody:
        app.state.http = app.state.plain = nobody
        app.state.database = app.state.plain_database = database
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://shop.example") as client:
            answer = await client.request(
                method or documented, path, content=body, headers={"Content-Type": content_type, "Accept": accept}
            )
    database.close()
    if answer.status_code < 400:
        return
    kind = answer.headers["Content-Type"]
    is_described(answer.json(), {JSON_TYPE: ENVELOPE_SCHEMA, PROBLEM_TYPE: PROBLEM_SCHEMA}[kind])
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    assert answer.status_code != 500
    if method is None:
        responses = app.openapi()["paths"][path][documented]["responses"]
        assert kind in responses[str(answer.status_code)]["content"]


def is_described(body: dict[str, Any], schema: dict[str, Any]) -> None:
    """Fail unless the members of `body` are those of `schema`: all that are required, each of its type."""
    types: dict[str, Any] = {"string": str, "object": dict, "number": (int, float), "integer": int, "null": type(None)}
    assert set(schema["required"]) <= set(body)
    for name, value in body.items():
        allowed = schema["properties"][name].get("type", [])
        kinds = [allowed] if isinstance(allowed, str) else allowed
        assert not kinds or any(isinstance(value, types[kind]) for kind in kinds)


def test_the_example_is_the_one_documented() -> None:
    """What the document is held against has operations, and the toolkit it says it has."""
    assert len(OPERATIONS) >= 3
    assert toolkit.config.service.name == "shop"
