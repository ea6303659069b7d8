"""The log names the host whose circuit opened."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from http_callers import SyncCaller
from http_upstreams import Upstream

from resilience import Resilience
from resilience.retry import no_waits

Make = Callable[..., SyncCaller]


def outage(caller: SyncCaller, url: str, times: int) -> None:
    with no_waits():
        for _ in range(times):
            with pytest.raises(caller.any_error):  # a refusal is one as well
                caller.get(url)


def test_the_log_names_the_host(
    caller: Make, refused_url: str, caplog: pytest.LogCaptureFixture, upstream: Upstream
) -> None:
    """A line about a client's circuit has the host and its port, with and without configured policies."""
    host = refused_url.removeprefix("http://")
    variables = {"RESILIENCE_PIPELINE__HTTP__BREAKER__FAIL_MAX": "3"}
    outage(caller(Resilience.from_env(variables)), refused_url, 4)
    outage(caller(Resilience()), refused_url, 40)
    opened = [line for line in caplog.messages if " opened: " in line]
    refused = [line for line in caplog.messages if "a call was refused" in line]
    for line in (*opened, *refused):
        assert line.startswith(f"circuit 'http.breaker' ({host}) "), line
    assert (len(opened), len(refused)) == (2, 2)
    assert all(", last " in line and "next trial in" in line for line in opened)
    assert caller().get(upstream.url).status == 200


def test_the_log_of_a_client_follows_its_toolkit(
    caller: Make, refused_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client logs no event if its toolkit says `none`, with and without configured policies."""
    silent = {"RESILIENCE_LOG__EVENTS": "none"}
    configured = silent | {"RESILIENCE_PIPELINE__HTTP__BREAKER__FAIL_MAX": "3"}
    outage(caller(Resilience.from_env(configured)), refused_url, 4)
    outage(caller(Resilience.from_env(silent)), refused_url, 40)
    assert caplog.messages == []
