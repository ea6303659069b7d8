"""The gate: recognising, admitting, charging."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from resilience import Resilience
from resilience.errors import BulkheadFullError, ConfigurationError, DeadlineExceededError, RateLimitedError
from resilience.lifecycle import Lifecycle
from resilience.ratelimit import TokenBucket
from resilience.server import (
    KeyRule,
    RequestContext,
    RouteLimit,
    ServerGate,
    ServerOptions,
    current_request,
    is_preflight,
)
from resilience.server._headers import timeout_of
from resilience.timeout import Deadline


def make_gate(key: Any = None, **options: Any) -> ServerGate:
    def limiter(name: str, rate: str, burst: int | None) -> TokenBucket:
        return TokenBucket(rate, burst, name=name, clock=lambda: 0.0)

    return ServerGate(ServerOptions(**options), limiter=limiter, lifecycle=Lifecycle(), key=key)


def in_flight(gate: ServerGate) -> int:
    assert gate.lifecycle is not None
    return gate.lifecycle.in_flight


def test_request_is_recognised() -> None:
    """Ids, address and deadline come from headers and peer."""
    gate = make_gate(trusted_proxies=("10.0.0.0/8",), deadline=5)
    headers = {"x-request-id": "abc", "x-forwarded-for": "203.0.113.9", "x-request-timeout": "250ms"}
    context = gate.receive(headers, "10.0.0.1")
    assert (context.request_id, context.trace_id, context.client) == ("abc", "", "203.0.113.9")
    assert context.deadline is not None
    assert 0 < context.deadline.remaining() <= 0.25


def test_request_without_anything() -> None:
    """A request that says nothing about itself has an id and nothing else."""
    context = make_gate().receive({})
    assert context.request_id
    assert (context.client, context.deadline, context.user) == ("", None, None)
    assert context.request_id in repr(context)


@pytest.mark.parametrize("asked", ["10", "1h", "-1", "nan", "inf", "soon", "", "9" * 400, "1e9"])
def test_header_only_shortens(asked: str) -> None:
    """A deadline header never lengthens the server's own deadline, and garbage changes nothing."""
    context = make_gate(deadline=8).receive({"x-request-timeout": asked})
    assert context.deadline is not None
    assert 4 < context.deadline.remaining() <= 8


def test_transport_patience_counts() -> None:
    """What the transport knows of the caller's patience shortens the deadline too."""
    context = make_gate(deadline=2).receive({}, timeout=0.5)
    assert context.deadline is not None
    assert context.deadline.remaining() <= 0.5
    assert make_gate().receive({}, timeout=None).deadline is None


@given(st.text() | st.floats().map(str) | st.from_regex(r"[0-9]{1,6}(ms|s|m|h|d)", fullmatch=True))
def test_patience_is_sensible_or_nothing(text: str) -> None:
    """Whatever a header says, the seconds it asks for are none, or up to a day."""
    seconds = timeout_of(text)
    assert seconds is None or 0 <= seconds <= 86_400


@pytest.mark.parametrize("asked", ["0", "0ms", "0.0", "0.000001ms"])
def test_who_waits_no_more_is_not_served(asked: str) -> None:
    """A caller with no time left is refused before it takes a place or is charged."""
    gate = make_gate(deadline=2, max_concurrent_requests=1)
    context = gate.receive({"x-request-timeout": asked})
    with pytest.raises(DeadlineExceededError):
        gate.admit(context)
    assert gate.bulkhead is not None
    assert gate.bulkhead.concurrent_calls == 0


@given(st.dictionaries(st.sampled_from(sorted(make_gate().wanted)), st.text()), st.none() | st.text())
def test_nothing_in_headers_raises(headers: dict[str, str], peer: str | None) -> None:
    """No header and no peer can make receiving a request fail."""
    context = make_gate(trusted_proxies=("0.0.0.0/0", "::/0"), deadline=1).receive(headers, peer)
    assert context.deadline is not None
    assert context.deadline.remaining() <= 1


def test_answered_request_has_no_deadline() -> None:
    """Once the answer is out the deadline is lifted: background work is not refused for being late."""
    gate = make_gate(deadline=1)
    context = gate.receive({})
    with context:
        current = Deadline.current()
        assert current is not None
        gate.response_sent(context)
        assert current.remaining() == math.inf


def test_context_is_current_only_inside() -> None:
    """Request and deadline are in force inside the block and gone after it, whatever ends it (L19)."""
    context = make_gate(deadline=1).receive({})

    def serve() -> None:
        with context:
            assert current_request() is context
            assert Deadline.current() is context.deadline
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve()
    assert current_request() is None
    assert Deadline.current() is None


def test_nothing_reaches_the_next_request_of_a_thread() -> None:
    """On a reused thread the second request does not see the first one's context (L19)."""
    seen: list[object] = []

    def work() -> None:
        for _ in range(2):
            seen.append(current_request())
            with make_gate().receive({}) as first, make_gate().receive({}) as second:
                assert current_request() is second is not first
            seen.append(current_request())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert seen == [None] * 4


def test_one_too_many_is_refused() -> None:
    """At the limit the next request is refused at once; a place given back is taken again."""
    gate = make_gate(max_concurrent_requests=1)
    first, second = gate.receive({}), gate.receive({})
    gate.enter(first)
    with pytest.raises(BulkheadFullError):
        gate.enter(second)
    gate.leave(second)
    assert in_flight(gate) == 1
    gate.leave(first)
    gate.leave(first)
    assert in_flight(gate) == 0
    gate.enter(second)


def test_long_connections_take_no_place() -> None:
    """A connection that lives for hours is counted as under way and keeps nobody out."""
    gate = make_gate(max_concurrent_requests=1)
    connection, request = gate.receive({}), gate.receive({})
    gate.enter(connection, takes_permit=False)
    gate.enter(request)
    assert in_flight(gate) == 2
    gate.leave(connection)
    with pytest.raises(BulkheadFullError):
        gate.enter(gate.receive({}))


def test_request_timeout_counts_as_well() -> None:
    """`Request-Timeout` is understood beside the configured header; of two the sooner holds."""
    gate = make_gate(deadline=50, deadline_header="X-Patience")
    for headers, longest in (({}, 50.0), ({"request-timeout": "10"}, 10.0), ({"request-timeout": "90"}, 50.0)):
        deadline = gate.receive(headers).deadline
        assert deadline is not None
        assert longest - 5 < deadline.remaining() <= longest
    both = gate.receive({"request-timeout": "2", "x-patience": "500ms"}).deadline
    assert both is not None
    assert both.remaining() <= 0.5


def test_identity_is_a_proxys_word() -> None:
    """A header names the caller only where a trusted proxy sent it; nothing else about a request does."""
    gate = make_gate(identity_header="X-Caller", trusted_proxies=("10.0.0.0/8",))
    assert gate.receive({"x-caller": "ann"}, "10.0.0.1").user == "ann"
    assert gate.receive({"x-caller": "ann"}, "203.0.113.9").user is None
    assert gate.receive({"x-caller": "ann"}).user is None
    assert gate.receive({"x-caller": "ann, bob"}, "10.0.0.1").user is None
    assert make_gate(trusted_proxies=("10.0.0.0/8",)).receive({"x-caller": "ann"}, "10.0.0.1").user is None
    assert gate.receive({}, "10.0.0.1").identity is None


@pytest.mark.parametrize("path", ["/livez", "/readyz/redis", "/metrics"])
def test_excluded_paths_pass(path: str) -> None:
    """Excluded paths, and all below them, are not limited, refused, timed or counted."""
    gate = make_gate(max_concurrent_requests=1, rate_limit="1/day", deadline=1)
    gate.enter(gate.receive({}))
    for _ in range(3):
        context = gate.receive({"x-request-timeout": "1ms"}, path=path)
        assert gate.admit(context) is None
        gate.leave(context)
        assert (context.charges, context.deadline, in_flight(gate)) == ((), None, 1)


@pytest.mark.parametrize("path", ["/", "/livezz", "/metricsx/", "//livez", "/x/livez"])
def test_other_paths_do_not(path: str) -> None:
    """A path that only looks like an excluded one is not."""
    assert not make_gate().receive({}, path=path).is_excluded


@pytest.mark.parametrize(
    ("configured", "passes", "does_not"),
    [
        ("/static/", ("/static", "/static/", "/static/app.js"), ("/", "/statics", "/stat")),
        ("/ok", ("/ok", "/ok/", "/ok/x"), ("/okay",)),
        ("/", ("/",), ("/orders", "//", "//orders", "")),
    ],
)
def test_what_an_excluded_path_covers(configured: str, passes: tuple[str, ...], does_not: tuple[str, ...]) -> None:
    """A path covers itself and all below it, however its end is written; the root is no more than one page."""
    gate = make_gate(exclude_paths=(configured,))
    assert [path for path in (*passes, *does_not) if gate.receive({}, path=path).is_excluded] == [*passes]


def test_quota_is_charged_until_spent() -> None:
    """A caller beyond its quota is refused with the time to wait; another caller is not."""
    gate = make_gate(rate_limit="2/minute")
    quota = gate.quota
    assert quota is not None
    greedy, modest = gate.receive({}, "203.0.113.9"), gate.receive({}, "203.0.113.10")
    gate.charge(greedy, quota)
    gate.charge(greedy, quota)
    with pytest.raises(RateLimitedError) as caught:
        gate.charge(greedy, quota)
    assert caught.value.retry_after == pytest.approx(30)
    gate.charge(modest, quota)


async def test_quota_is_the_same_in_both_colours() -> None:
    """Charging with and without await spends the same bucket."""
    gate = make_gate(rate_limit="2/minute")
    assert gate.quota is not None
    context = gate.receive({}, "203.0.113.9")
    gate.charge(context, gate.quota)
    await gate.acharge(context, gate.quota)
    with pytest.raises(RateLimitedError):
        await asyncio.wait_for(gate.acharge(context, gate.quota), 5)


def test_admission_charges_what_is_at_hand() -> None:
    """A quota in memory is charged on admission; excluded paths are not charged; one request too many is refused."""
    gate = ServerGate.of(Resilience.from_env({"RESILIENCE_SERVER__RATE_LIMIT": "1/minute"}))
    peer = "203.0.113.9"
    probe = gate.receive({}, peer, path="/livez")
    first, second = gate.receive({}, peer), gate.receive({}, peer)
    assert gate.admit(probe) is None
    assert gate.admit(first) is None
    assert (len(probe.charges), len(first.charges)) == (0, 1)
    with pytest.raises(RateLimitedError):
        gate.admit(second)
    gate.leave(second)
    assert in_flight(gate) == 1


@pytest.mark.parametrize("peer", [None, "", "unix:", "<local>"])
async def test_clients_behind_an_unknown_socket_share_no_quota(
    peer: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests over a Unix socket that nothing names are not counted by address, and one warning says so."""
    gate = make_gate(rate_limit="1/minute")
    assert gate.quota is not None
    limit = RouteLimit("1/minute", key="ip")
    for number in range(3):
        context = gate.receive({"x-forwarded-for": f"203.0.113.{number}"}, peer)
        gate.charge(context, gate.quota)
        await gate.acharge(context, gate.quota)
        assert limit.charge_for(gate, context, "GET /", rate="1/minute", key=None, cost=1) is None
        assert context.charges == ()
    assert caplog.text.count("RESILIENCE_SERVER__TRUSTED_PROXIES=unix") == len(caplog.records) == 1


@pytest.mark.parametrize(
    ("rule", "headers"), [("header:X-Api-Key", {"x-api-key": "k"}), ("ip", {"x-forwarded-for": "nonsense"})]
)
def test_what_is_known_behind_a_socket_counts(rule: str, headers: dict[str, str]) -> None:
    """A key that is no address holds over a Unix socket, and so does a trusted header in which no address stands."""
    gate = make_gate(rate_limit="1/minute", rate_limit_key=rule, trusted_proxies=("unix",))
    assert gate.quota is not None
    gate.charge(gate.receive(headers), gate.quota)
    with pytest.raises(RateLimitedError):
        gate.charge(gate.receive(headers), gate.quota)


def test_peers_with_a_name_share_a_quota() -> None:
    """A peer that a server names by a word in place of an address, such as a test client, has a quota."""
    gate = make_gate(rate_limit="1/minute")
    assert gate.quota is not None
    gate.charge(gate.receive({}, "testclient"), gate.quota)
    with pytest.raises(RateLimitedError):
        gate.charge(gate.receive({}, "testclient"), gate.quota)


def test_a_forwarded_header_names_nobody() -> None:
    """`Forwarded` (RFC 7239) is never read: a proxy that sets `X-Forwarded-For` passes a client's own one on."""
    gate = make_gate(trusted_proxies=("10.0.0.0/8",))
    headers = {"forwarded": "for=6.6.6.6", "x-forwarded-for": "203.0.113.9"}
    assert gate.receive(headers, "10.0.0.1").client == "203.0.113.9"
    assert gate.receive({"forwarded": "for=6.6.6.6"}, "10.0.0.1").client == "10.0.0.1"


def test_admission_does_not_wait() -> None:
    """A quota whose bucket may keep the caller waiting is handed back to be charged: only the adapter can await."""
    gate = make_gate(rate_limit="1/minute")
    context = gate.receive({})
    quota = gate.admit(context)
    assert quota is gate.quota
    assert (context.charges, in_flight(gate)) == ((), 1)
    assert not gate.receive({}, path="/livez").charges


def test_quotas_on_redis_wait() -> None:
    """Whether a quota keeps its callers waiting is whether it is kept on Redis."""
    shared = Resilience.from_env({"RESILIENCE_REDIS__URL": "redis://127.0.0.1:1/0"})
    try:
        assert ServerGate.of(shared).quota_for("a", "1/minute", name="a").waits
    finally:
        shared.close()
    assert not ServerGate.of(Resilience.from_env({})).quota_for("a", "1/minute", name="a").waits


def test_quota_headers_follow_the_draft() -> None:
    """Behind the flag, a caller is told each quota it was charged to, as structured fields."""
    gate = make_gate(rate_limit="100/minute", rate_limit_headers=True)
    assert gate.quota is not None
    context = gate.receive({}, "203.0.113.9")
    assert gate.quota_headers(context) == ()
    gate.charge(context, gate.quota)
    gate.charge(context, gate.quota_for('5 "per" minute\n', "1/minute", name="route"))
    assert gate.quota_headers(context) == (
        ("RateLimit-Policy", '"default";q=100;w=60, "5 per minute";q=1;w=60'),
        ("RateLimit", '"default";r=99;t=1, "5 per minute";r=0;t=60'),
    )


def test_quota_headers_agree_with_retry_after() -> None:
    """A refused caller is told to come back exactly when Retry-After says."""
    gate = make_gate(rate_limit="2/minute", rate_limit_headers=True)
    assert gate.quota is not None
    context = gate.receive({}, "203.0.113.9")
    for _ in range(2):
        gate.charge(context, gate.quota)
    with pytest.raises(RateLimitedError):
        gate.charge(context, gate.quota)
    assert gate.quota_headers(context)[1][1].endswith('"default";r=0;t=30')


def test_quota_headers_are_off_by_default() -> None:
    """Without the flag no caller learns about quotas."""
    gate = make_gate(rate_limit="2/minute")
    assert gate.quota is not None
    context = gate.receive({})
    gate.charge(context, gate.quota)
    assert gate.quota_headers(context) == ()


def test_quota_needs_a_limiter() -> None:
    """A rate without anything to keep it in is a mistake, said at construction."""
    with pytest.raises(ConfigurationError, match="limiter"):
        ServerGate(ServerOptions(rate_limit="1/second"))


def test_gate_without_lifecycle() -> None:
    """A gate without a lifecycle counts nothing and never closes."""
    gate = ServerGate()
    context = gate.receive({})
    gate.enter(context)
    gate.leave(context)
    assert not gate.is_closing


def test_closing_follows_the_lifecycle() -> None:
    """While draining, clients are asked to open another connection."""
    gate = make_gate()
    assert not gate.is_closing
    assert gate.lifecycle is not None
    gate.lifecycle.drain()
    assert gate.is_closing


class TestKey:
    def test_ip(self) -> None:
        """By default a client is its address, an IPv6 one its /64."""
        assert KeyRule().of(RequestContext(client="203.0.113.9")) == "ip:203.0.113.9"
        assert KeyRule("ip").of(RequestContext(client="2001:db8::1")) == "ip:2001:db8::/64"

    def test_header(self) -> None:
        """An API key is recognised but never stored; without one the address counts."""
        rule = KeyRule("header:X-Api-Key")
        one = rule.of(RequestContext(client="203.0.113.9", headers={"x-api-key": "s3cret"}))
        other = rule.of(RequestContext(client="203.0.113.9", headers={"x-api-key": "other"}))
        assert one != other
        assert "s3cret" not in str(one)
        assert rule.of(RequestContext(client="203.0.113.9")) == "ip:203.0.113.9"

    def test_user(self) -> None:
        """A known user counts as one, wherever it comes from; an unknown one by address."""
        context = RequestContext(client="203.0.113.9")
        assert KeyRule("user").of(context) == "ip:203.0.113.9"
        context.user = "ann"
        assert KeyRule("user").of(context) == "user:ann"

    @given(st.text(min_size=1))
    def test_bounded(self, text: str) -> None:
        """However long a user's name or a computed key is, the key of its bucket is not."""
        context = RequestContext()
        context.user = text * 50
        for key in (KeyRule("user").of(context), make_gate(key=lambda _: text * 50).key_of(context)):
            assert key is not None
            assert len(key) <= 128

    def test_lone_surrogates(self) -> None:
        """Text that is no valid Unicode makes a key like any other."""
        assert str(KeyRule("header:x").of(RequestContext(headers={"x": "\ud800"}))).startswith("header:")

    @pytest.mark.parametrize("rule", ["", "cookie", "header:", "header:a b", 5])
    def test_unknown(self, rule: Any) -> None:
        """A rule nobody knows is refused by name."""
        with pytest.raises(ConfigurationError, match="header:<name>"):
            KeyRule(rule)


ASKED = {"Origin": "https://shop.example", "Access-Control-Request-Method": "PUT"}


@pytest.mark.parametrize(
    ("method", "headers", "is_one"),
    [
        ("OPTIONS", ASKED, True),
        ("OPTIONS", {"Origin": "https://shop.example"}, False),
        ("OPTIONS", {"Access-Control-Request-Method": "PUT"}, False),
        ("OPTIONS", {}, False),
        ("GET", ASKED, False),
        ("options", ASKED, False),
    ],
)
def test_what_a_preflight_is(method: str, headers: dict[str, str], is_one: bool) -> None:  # noqa: FBT001 - a table's column
    """A preflight is an OPTIONS request with both headers of the Fetch standard; a mere OPTIONS request is none."""
    assert is_preflight(method, Headers(headers)) is is_one


async def test_a_preflight_is_let_in() -> None:
    """A preflight takes no place and is not charged, by no quota and no key; it counts as under way."""

    def key(_: RequestContext) -> str:
        raise KeyError("no credentials in a preflight")

    gate = make_gate(key, rate_limit="1/minute", max_concurrent_requests=1)
    assert gate.quota is not None
    assert gate.bulkhead is not None
    for under_way in (1, 2, 3):
        context = gate.receive({}, "203.0.113.9")
        context.is_preflight = True
        assert gate.admit(context) is None
        gate.charge(context, gate.quota)
        await gate.acharge(context, gate.quota, "k")
        assert RouteLimit("1/minute").charge_for(gate, context, "PUT /", rate="1/minute", key="k", cost=1) is None
        assert (context.charges, gate.bulkhead.concurrent_calls, in_flight(gate)) == ((), 0, under_way)


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_all_limits_of_a_request_are_charged_or_none(colour: str) -> None:
    """If one limit of a request refuses, all limits that it has paid before are as if it had not come."""
    gate = make_gate(rate_limit="9/minute")
    wide = gate.quota_for("9/minute", "9/minute", name="wide")
    tight = gate.quota_for("1/minute", "1/minute", name="tight")
    assert gate.quota is not None

    async def request() -> bool:
        context = gate.receive({}, "203.0.113.9")
        try:
            for quota, cost in ((gate.quota, 1), (wide, 3), (tight, 1)):
                assert quota is not None
                if colour == "sync":
                    gate.charge(context, quota, "k", cost)
                else:
                    await gate.acharge(context, quota, "k", cost)
        except RateLimitedError:
            return False
        return True

    assert [await request() for _ in range(4)] == [True, False, False, False]
    left = [quota.bucket.snapshot("k")["remaining"] for quota in (gate.quota, wide, tight)]
    assert left == [8, 6, 0]


def test_headers_of_a_refusal_show_the_buckets_after_the_refund() -> None:
    """A client reads in the `RateLimit` fields what it can still spend: the refused request has cost it nothing."""
    gate = make_gate(rate_limit="5/minute", rate_limit_headers=True)
    tight = gate.quota_for("1/minute", "1/minute", name="tight")
    assert gate.quota is not None
    first, refused = gate.receive({}, "203.0.113.9"), gate.receive({}, "203.0.113.9")
    for context in (first, refused):
        with contextlib.suppress(RateLimitedError):
            gate.charge(context, gate.quota, "k")
            gate.charge(context, tight, "k")
    assert dict(gate.quota_headers(refused))["RateLimit"] == '"default";r=4;t=12, "1/minute";r=0;t=60'


@pytest.mark.parametrize("found", [None, ""])
def test_a_key_function_without_a_key_leaves_the_setting(found: Any) -> None:
    """If the function of the service finds no key, the setting decides, and clients do not share one bucket."""
    gate = make_gate(key=lambda context: found, rate_limit="1/minute")
    assert [gate.key_of(gate.receive({}, peer)) for peer in ("203.0.113.1", "203.0.113.2")] == [
        "ip:203.0.113.1",
        "ip:203.0.113.2",
    ]


def test_a_key_of_another_type_is_its_text() -> None:
    """A function may return the id of a user, a number."""
    gate = make_gate(key=lambda context: 7, rate_limit="1/minute")
    assert gate.key_of(gate.receive({})) == "7"
