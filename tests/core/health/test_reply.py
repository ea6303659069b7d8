import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.health import Health, HealthOptions
from resilience.lifecycle import Lifecycle


@pytest.fixture
def health() -> Health:
    health = Health(HealthOptions(timeout=10.0))
    health.add("db", lambda: False)
    health.add("cache", lambda: False, failure="warn")
    health.add("warm", lambda: None, groups=("startup",))
    return health


@pytest.mark.parametrize(
    ("path", "query", "status", "body"),
    [
        ("/livez", "", 200, "ok"),
        ("livez", "", 200, "ok"),
        ("/livez/", "", 200, "ok"),
        ("/healthz", "verbose", 200, "[+]ping ok\nhealthz check passed\n"),
        ("/livez", "verbose=1", 200, "[+]ping ok\nlivez check passed\n"),
        ("/livez", "verbose=false", 200, "ok"),
        ("/livez", b"verbose", 200, "[+]ping ok\nlivez check passed\n"),
        ("/livez", {"verbose": [""]}, 200, "[+]ping ok\nlivez check passed\n"),
        ("/startupz", "verbose", 200, "[+]ping ok\n[+]warm ok\nstartupz check passed\n"),
        ("/readyz", "exclude=db", 200, "ok"),
        ("/readyz", {"exclude": ["db", "cache"]}, 200, "ok"),
        ("/readyz", "exclude=db&exclude=cache&verbose", 200, "[+]ping ok\nreadyz check passed\n"),
        ("/readyz/cache", "", 200, "ok"),
        ("/readyz/ping", "verbose", 200, "[+]ping ok\nping check passed\n"),
        ("/readyz/db", "", 503, "[-]db failed: reason withheld\ndb check failed\n"),
        ("/readyz/nope", "", 404, "no such check\n"),
        ("/livez/db", "", 404, "no such check\n"),
        ("/readyz/db/x", "", 404, "no such check\n"),
        ("/", "", 404, "no such probe\n"),
        ("", "", 404, "no such probe\n"),
        ("/metrics", "", 404, "no such probe\n"),
        ("/ready", "", 404, "no such probe\n"),
    ],
)
def test_probes(health: Health, path: str, query: Any, status: int, body: str) -> None:
    """A probe is 200 or 503 in Kubernetes' words, and an unknown path is 404."""
    reply = health.handle(path, query)
    assert (reply.status, reply.body.decode()) == (status, body)
    assert reply.headers == {
        "Content-Type": "text/plain; charset=utf-8",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Content-Length": str(len(reply.body)),
    }


def test_failure_is_always_verbose(health: Health) -> None:
    """A failed probe lists the failed checks by itself; only the log has the reasons."""
    assert health.handle("/readyz").body.decode().splitlines() == [
        "[+]ping ok",
        "[-]db failed: reason withheld",
        "[!]cache warning: reason withheld",
        "readyz check failed",
    ]


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", True),
        ("text/plain, application/json;q=0.5", False),
        ("text/plain;q=0.5, application/json", True),
        ("application/json;q=0", False),
    ],
)
def test_json_on_request(health: Health, accept: str | None, is_json: bool) -> None:  # noqa: FBT001 - a table's column
    """A client that prefers JSON gets it, with the same status."""
    reply = health.handle("/readyz", "exclude=zz", accept)
    assert reply.status == 503
    assert (reply.headers["Content-Type"] == "application/json") is is_json
    if is_json:
        document = json.loads(reply.body)
        assert (document["status"], document["group"]) == ("failed", "ready")
        assert [(one["name"], one["status"]) for one in document["checks"]] == [
            ("ping", "ok"),
            ("db", "failed"),
            ("cache", "warn"),
        ]
        assert document["checks"][1]["reason"] == "reason withheld"
        assert len(document["warnings"]) == 1


def test_a_probe_cannot_exclude_the_drain(health: Health) -> None:
    """No query makes a draining process ready."""
    lifecycle = Lifecycle()
    health.attach(lifecycle)
    lifecycle.started()
    lifecycle.drain()
    query = "exclude=db&exclude=cache&exclude=lifecycle&exclude=ping"
    assert health.handle("/readyz", query).status == 503
    assert health.handle("/readyz/lifecycle").status == 503
    assert health.handle("/livez").status == 200


def test_what_a_client_sends_stays_small_and_plain(health: Health) -> None:
    """Names to exclude come back quoted, cut and counted: no lines forged, no page filled."""
    forged = health.handle("/readyz", {"exclude": ["x\n[+]db ok", "\u2603" * 5000]}).body.decode("ascii")
    assert "[+]db ok" not in forged.splitlines()
    flood = health.handle("/readyz", "&".join(f"exclude=n{number}" for number in range(10_000)))
    assert len(flood.body) < 500


@given(st.text(), st.text() | st.binary(), st.none() | st.text())
def test_any_request_is_survived(path: str, query: str | bytes, accept: str | None) -> None:
    """The answer to any request is 200, 404 or 503."""
    assert Health().handle(path, query, accept).status in {200, 404, 503}


@given(st.sampled_from(["/livez", "/readyz"]), st.text(st.sampled_from("verbose=&exclude%;+a\n")))
def test_any_query_is_survived(path: str, query: str) -> None:
    """A query changes the text, never the status of liveness."""
    assert Health().handle(path, query).status == 200
