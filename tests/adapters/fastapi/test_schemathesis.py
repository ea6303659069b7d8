"""Schemathesis on the example's OpenAPI document: what it makes up is answered as documented, whatever the headers."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

import httpx2
import pytest
from example_modules import load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilience import CircuitBreaker
from resilience.envelope import ENVELOPE_SCHEMA, JSON_TYPE, PROBLEM_SCHEMA, PROBLEM_TYPE

schemathesis = pytest.importorskip("schemathesis", reason="it wants a newer rich than the oldest we take: group `fuzz`")
pytestmark = pytest.mark.once
checks = pytest.importorskip("schemathesis.checks", reason="comes with schemathesis")

shop = load("fastapi_shop")


class Others(httpx2.AsyncBaseTransport):
    """The services behind the shop, in the mood of the moment."""

    mood: int | None = 200

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.mood is None:
            raise httpx2.ConnectError("nobody there", request=request)
        return httpx2.Response(self.mood, json={"paid": 450})


others = Others()
(breaker,) = (policy for policy in shop.payments.policies if isinstance(policy, CircuitBreaker))


async def serve(scope: Any, receive: Any, send: Any) -> None:
    """Serve the shop without its lifespan, which would hold connections until the interpreter ends."""
    assert scope["type"] == "http"
    behind = httpx2.AsyncClient(transport=others, base_url="http://behind.example")
    shop.app.state.http = shop.app.state.plain = shop.app.state.warehouse = behind
    with closing(shop.Database()) as database:
        await database.create()
        shop.app.state.database = shop.app.state.plain_database = database
        await shop.app(scope, receive, send)


DOCUMENT = schemathesis.openapi.from_asgi("/openapi.json", serve)
OPERATIONS = [found.ok() for found in DOCUMENT.get_all_operations()]
SOUND, UNSOUND = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
CASES = [
    pytest.param(operation, mode, id=f"{operation.method} {operation.path} {mode.value}")
    for operation in OPERATIONS
    for mode in (SOUND, UNSOUND)
    if mode is SOUND or operation.definition.raw.get("requestBody")
]
NOT_ASKED = [
    checks.CHECKS.get_one(name)
    for name in (
        "positive_data_acceptance",  # what is not sold is a 422 with the shop's own code, and no schema can know that
        "not_a_server_error",  # the others are down: 502, 503 and 504 are right, and 500 is looked for here
    )
]

# All that clients and servers let through; test_any_headers hands over the rest, line breaks and all.
BYTES = st.binary(max_size=300).map(
    lambda raw: bytes(byte for byte in raw if byte >= 32 and byte != 127).decode("latin-1").strip()
)
SCHEMAS = {JSON_TYPE: ENVELOPE_SCHEMA, PROBLEM_TYPE: PROBLEM_SCHEMA}
IDS = st.from_regex(r"\A[A-Za-z0-9._-]{1,130}\Z")
HEADERS = {
    "Accept": st.sampled_from([JSON_TYPE, PROBLEM_TYPE, "text/html", "application/problem+json;q=0.1, */*"]),
    "X-Request-ID": IDS,
    "X-Request-Timeout": st.sampled_from(["nan", "-1", "inf", "1e999", "0", "250ms", "5s", "1h" * 100]),
    "Request-Timeout": st.sampled_from(["nan", "-0", "9" * 400, "1", "\u00b2"]),
    "traceparent": st.from_regex(r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z"),
    "tracestate": st.sampled_from(["a=1,b=2", "a=1" * 300, ",,,", "=", "a@b=\u00ff"]),
    "baggage": st.sampled_from(["a=1;p,b=%0d%0aSet-Cookie:x", "a" * 9000, "=;=,", "%zz=%"]),
}
HOSTILE = st.fixed_dictionaries({}, optional={name: sane | BYTES for name, sane in HEADERS.items()})
is_sound_id = re.compile(r"[A-Za-z0-9._-]{1,128}").fullmatch


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_answers_are_as_documented(operation: Any, mode: Any) -> None:
    """What the schema allows or forbids, under any headers, has a documented answer, no 500, and a sound request id."""

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
    @given(
        case=operation.as_strategy(generation_mode=mode),
        headers=HOSTILE,
        is_sold=st.booleans(),
        mood=st.sampled_from([200, 200, 500, None]),
    )
    def hold(case: Any, headers: dict[str, str], mood: int | None, *, is_sold: bool) -> None:
        others.mood = mood
        if mood == 200:
            breaker.close()  # who orders while all is well is not to find it open from before
        if mode is SOUND and is_sold and isinstance(case.body, dict):
            case.body["item"] = "tea"  # by itself it would find nothing that is sold, and get no further
        answer = case.call(headers=headers)
        case.validate_response(answer, excluded_checks=NOT_ASKED, headers=headers)
        (sent,) = answer.headers["x-request-id"]
        assert is_sound_id(sent)
        asked = headers.get("X-Request-ID", "")  # kept if it is sound, and not else
        assert (sent == asked) == bool(is_sound_id(asked))
        seen.append(answer.status_code)
        if answer.status_code >= 400:
            body = answer.json()
            (kind,) = answer.headers["content-type"]
            assert set(SCHEMAS[kind]["required"]) <= set(body)
            assert body["request_id"] == sent
            assert answer.status_code != 500

    seen: list[int] = []
    hold()
    assert seen
    if mode is UNSOUND:
        assert set(seen) <= {400, 422, 504}
    else:
        assert min(seen) < 300


def test_all_operations_are_asked() -> None:
    """Nothing of the document is left out, and what the example does when all goes well is in reach."""
    document = shop.app.openapi()["paths"]
    assert {(each.path, each.method) for each in OPERATIONS} == {
        (path, method) for path, item in document.items() for method in item
    }
    assert len(CASES) > len(OPERATIONS)
