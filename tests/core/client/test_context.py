"""What an outgoing call carries."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest

from resilience import Resilience
from resilience.client import ClientContext, ClientOptions, client_headers, refuse_if_spent
from resilience.errors import ConfigurationError, DeadlineExceededError
from resilience.server import RequestContext, ServerGate, ServerOptions
from resilience.testing import ManualClock
from resilience.timeout import Deadline

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = {"x-request-id": "abc", "traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1", "baggage": "tenant=blue"}


def request(
    clock: ManualClock | None = None, seconds: float = 1.0, sent: dict[str, str] | None = None
) -> RequestContext:
    context = ServerGate().receive(sent or {})
    if clock is not None:
        context.deadline = Deadline(clock() + seconds, clock=clock)
    return context


def test_nothing_is_carried_outside_a_request() -> None:
    """A call that serves no request, and has no deadline, carries nothing."""
    assert client_headers() == {}
    assert ClientContext().metadata() == ()
    assert ClientContext().timeout(3) == 3
    assert ClientContext().timeout() is None
    assert refuse_if_spent() is None


def test_what_came_in_goes_out() -> None:
    """Request id, trace, tracestate and baggage are the caller's; the parent id is new for every call."""
    with request(sent=SENT):
        first, second = client_headers(), client_headers()
    parents = []
    for headers in (first, second):
        found = re.fullmatch(rf"00-{TRACE}-([0-9a-f]{{16}})-01", headers.pop("traceparent"))
        assert found
        parents.append(found[1])
    assert first == second == {"X-Request-Id": "abc", "tracestate": "a=1", "baggage": "tenant=blue"}
    assert len({*parents, PARENT}) == 3


def test_no_trace_is_begun() -> None:
    """Where the caller traces nothing, neither do we: a trace nobody records would spoil the callee's sampling."""
    with request(sent={"tracestate": "a=1"}):
        assert list(client_headers()) == ["X-Request-Id"]


def test_deadline_is_sent_less_the_margin() -> None:
    """The other side is told what is left, in seconds, minus what we need ourselves."""
    clock = ManualClock()
    with request(clock):
        clock.advance(0.25)
        assert client_headers(margin="50ms")["X-Request-Timeout"] == "0.700000"
        assert client_headers(margin=0, deadline_header="X-Patience")["X-Patience"] == "0.750000"
        assert refuse_if_spent(0.05) == pytest.approx(0.7)


def test_sent_deadline_is_understood() -> None:
    """What is sent is what the server side reads, down to the smallest remainder."""
    for seconds in (2e-6, 0.0005, 1.5, 86_000.0):
        clock = ManualClock()
        with request(clock, seconds):
            headers = {name.lower(): text for name, text in client_headers(margin=0).items()}
        deadline = ServerGate(ServerOptions()).receive(headers).deadline
        assert deadline is not None
        assert deadline.remaining() <= seconds


@pytest.mark.parametrize("elapsed", [0.95, 1.0, 2.0])
def test_spent_deadline_is_refused(elapsed: float) -> None:
    """Where nothing is left after the margin no call is made, whichever way one asks, and the error says so."""
    clock, context = ManualClock(), ClientContext(ClientOptions(margin=0.05))
    with request(clock):
        clock.advance(elapsed)
        for ask in (
            context.headers,
            context.timeout,
            context.refuse_if_spent,
            lambda: refuse_if_spent("50ms"),
        ):
            with pytest.raises(DeadlineExceededError) as caught:
                ask()
            assert caught.value.is_before_call
            assert caught.value.retryable


def test_timeout_is_the_shorter_one() -> None:
    """A call's own timeout holds unless the deadline is sooner."""
    clock, context = ManualClock(), ClientContext(ClientOptions(margin=0.1))
    with request(clock):
        assert context.timeout(0.5) == 0.5
        assert context.timeout(5) == pytest.approx(0.9)
        assert context.timeout() == pytest.approx(0.9)


def test_metadata_has_no_deadline() -> None:
    """gRPC metadata has lower-case names, and leaves the deadline to gRPC's own timeout."""
    with request(ManualClock(), sent={"x-request-id": "abc", "baggage": "a=1"}):
        assert ClientContext().metadata() == (("x-request-id", "abc"), ("baggage", "a=1"))


def test_request_can_be_named() -> None:
    """A call may be made for a request that is not the current one; its deadline counts as well."""
    clock = ManualClock()
    other = request(clock, 0.5, {"x-request-id": "other"})
    with request(clock, sent={"x-request-id": "current"}):
        headers = client_headers(other, margin=0)
    assert headers == {"X-Request-Id": "other", "X-Request-Timeout": "0.500000"}


def test_shield_lifts_the_deadline() -> None:
    """Work that has to be done anyway is not refused, and tells nobody to hurry."""
    clock = ManualClock()
    with request(clock):
        clock.advance(2)
        with Deadline.shield():
            assert list(client_headers()) == ["X-Request-Id"]


def test_background_work_has_no_deadline() -> None:
    """Once the answer is out, what runs behind it is in no hurry."""
    context = request(ManualClock())
    with context:
        ServerGate().response_sent(context)
        assert "X-Request-Timeout" not in client_headers()


def test_identity_is_forwarded_on_request() -> None:
    """Who our caller is goes out only where a header is configured for it, and only where it is safe in one."""
    client_context = ClientContext(ClientOptions(identity_header="X-Caller"))
    context = request(sent={"x-request-id": "abc"})
    context.user = "ann"
    assert client_context.headers(context)["X-Caller"] == "ann"
    assert "X-Caller" not in ClientContext().headers(context)
    context.user = "a\r\nSet-Cookie: b"
    assert "X-Caller" not in client_context.headers(context)


def test_text_configures_it() -> None:
    """Margin and headers can be set by environment."""
    environ = {"RESILIENCE_CLIENT__MARGIN": "200ms", "RESILIENCE_CLIENT__DEADLINE_HEADER": "X-Patience"}
    context = ClientContext.of(Resilience.from_env(environ))
    with request(ManualClock()):
        assert context.headers()["X-Patience"] == "0.800000"


@pytest.mark.parametrize(
    "bad", [{"margin": -1}, {"margin": "soon"}, {"deadline_header": "a b"}, {"deadline_header": "a\n"}]
)
def test_bad_options_are_refused_by_name(bad: dict[str, Any]) -> None:
    """A margin is a duration and a header name is one."""
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        client_headers(**bad)


TRACING = """
import sys
from opentelemetry import baggage, context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from resilience.server import ServerGate
from resilience.client import client_headers

theirs = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
for is_remote in (False, True):
    span = NonRecordingSpan(SpanContext(1, 2, is_remote, TraceFlags(1)))
    with trace.use_span(span), ServerGate().receive({"traceparent": theirs, "tracestate": "a=1", "baggage": "b=1"}):
        headers = client_headers()
        print(headers["traceparent"][:35], headers.get("tracestate"), headers["baggage"])
        if not is_remote:
            context.attach(baggage.set_baggage("c", "2"))
            print(client_headers()["baggage"])
"""


def test_active_span_is_the_parent() -> None:
    """Where OpenTelemetry has a span open here, calls are its children; one that is only remote changes nothing."""
    pytest.importorskip("opentelemetry.trace")
    command = [sys.executable, "-c", TRACING]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=30, check=True)
    ours, own_baggage, theirs = done.stdout.splitlines()
    assert own_baggage == "c=2"
    assert ours == f"00-{1:032x} None b=1"
    assert theirs == f"00-{TRACE} a=1 b=1"


@pytest.mark.parametrize("written", ["a\r\nX-Admin: 1", "€", "x" * 200, "a b"])
def test_an_unsound_request_id_is_not_carried(written: str) -> None:
    """An id that code of the service has written is held to the rule of those that callers send."""
    context = RequestContext("sound")
    assert client_headers(context)["X-Request-Id"] == "sound"
    context.request_id = written
    carried = client_headers(context)["X-Request-Id"]
    assert carried.isalnum()
    assert carried != written
