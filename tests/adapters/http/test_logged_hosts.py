"""The log names the host whose circuit opened, and that of a call which failed."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import pytest
from http_callers import SyncCaller
from http_upstreams import Upstream

from resilience import Resilience, Timeout
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


def test_the_lines_of_one_call_name_its_host_and_the_status(
    caller: Make, caplog: pytest.LogCaptureFixture, upstream: Upstream
) -> None:
    """A retry that gave up names the host; it, the opened circuit and the refusal name the status of the answer."""
    host = upstream.url.removeprefix("http://").rstrip("/")
    for _ in range(3):
        upstream.answers(503)
    client = caller(Resilience.from_env({"RESILIENCE_PIPELINE__HTTP__BREAKER__FAIL_MAX": "3"}))
    error = client.failed.__name__
    with no_waits():
        assert client.get(upstream.url).status == 503
        with pytest.raises(client.any_error, match=f"last {error} 503; next trial in"):
            client.get(upstream.url)
    lines = [re.sub(r"[0-9.e-]+ s\b", "N s", line) for line in caplog.messages]
    circuit = f"circuit 'http.breaker' ({host})"
    assert lines == [
        f"{circuit} opened: 3 of 3 calls failed (consecutive failures), last {error} 503; next trial in N s",
        f"retry 'http.retry' ({host}) gave up after 3 attempts in N s (attempts), last {error} 503",
        f"{circuit} is open: a call was refused; next trial in N s",
    ]
    retried = next(record for record in caplog.records if "gave up" in record.getMessage())
    assert vars(retried)["resilience_key"] == host


def test_the_line_of_a_timeout_names_the_host(caller: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A timeout of a client's pipeline logs and counts each call once; it is one for all hosts, and names the host."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = {"TIMEOUT__SECONDS": "100ms", "RETRY__ENABLED": "false"}
        toolkit = Resilience.from_env({f"RESILIENCE_PIPELINE__HTTP__{name}": text for name, text in settings.items()})
        client = caller(toolkit)
        with pytest.raises(client.timed_out):
            client.get(f"http://{host}/")
    assert caplog.messages == [f"timeout 'http.timeout' ({host}): a call took longer than 0.1 s"]
    (timeout,) = (policy for policy in client.guard.pipeline.policies if isinstance(policy, Timeout))
    assert timeout.elapsed_calls == 1
