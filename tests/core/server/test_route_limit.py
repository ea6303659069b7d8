"""Limits of routes: what is charged, under which name, and how much of it is kept."""

from __future__ import annotations

from typing import Any

import pytest

from resilience import Resilience
from resilience.errors import ConfigurationError, RateLimitedError
from resilience.ratelimit import TokenBucket
from resilience.server import RequestContext, RouteLimit, ServerGate, ServerOptions, ServerQuota


class Limiters:
    """A toolkit's limiters at a standstill: one for each name, for ever."""

    def __init__(self) -> None:
        self.known: dict[str, TokenBucket] = {}

    def __call__(self, name: str, rate: str, burst: int | None) -> TokenBucket:
        return self.known.setdefault(name, TokenBucket(rate, burst, name=name, clock=lambda: 0.0))


def due(
    limit: RouteLimit, gate: ServerGate, context: RequestContext, *, rate: str, place: str = "GET /"
) -> tuple[ServerQuota, str, int]:
    found = limit.charge_for(gate, context, place, rate=rate, key="k", cost=1)
    assert found is not None
    return found


def is_let_in(limit: RouteLimit, gate: ServerGate, *, rate: str, place: str = "GET /") -> bool:
    context = gate.receive({})
    try:
        gate.charge(context, *due(limit, gate, context, rate=rate, place=place))
    except RateLimitedError:
        return False
    return True


def by_request() -> str:
    return "1/minute"


def test_computed_rates_are_kept_in_one_place() -> None:
    """However many rates a function says, the toolkit is asked for one limiter, and what was spent stays spent."""
    limiters = Limiters()
    limit, gate = RouteLimit(by_request), ServerGate(ServerOptions(), limiter=limiters)
    assert all(is_let_in(limit, gate, rate=f"1 per {seconds} seconds") for seconds in range(1, 1000))
    assert not any(is_let_in(limit, gate, rate=f"1 per {seconds} seconds") for seconds in range(1, 1000))
    assert list(limiters.known) == ["route/by-request"]


def test_each_computed_rate_has_buckets_of_its_own() -> None:
    """A caller whose rate changes has the whole of the new one; burst, place and label are those of the limit."""
    limit, gate = RouteLimit(by_request, burst=2), ServerGate(ServerOptions(), limiter=Limiters())
    for rate in ("1/minute", "5/hour"):
        assert [is_let_in(limit, gate, rate=rate) for _ in range(3)] == [True, True, False]
    assert is_let_in(limit, gate, rate="1/minute", place="GET /other")
    quota, _, _ = due(limit, gate, gate.receive({}), rate="5/hour")
    assert (quota.label, quota.policy, quota.bucket.name) == ('"5/hour"', '"5/hour";q=5;w=3600', "route/by-request/2")


def test_a_computed_rate_that_makes_no_sense() -> None:
    """A rate that is none is refused where it is said, and lets nobody in."""
    limit, gate = RouteLimit(by_request), ServerGate(ServerOptions(), limiter=Limiters())
    with pytest.raises(ConfigurationError, match="rate"):
        is_let_in(limit, gate, rate="often")


@pytest.mark.parametrize("name", ["n" * 84, "n" * 100, "é" * 500, "a b\n" * 40, "\ud800" * 200])
def test_long_names(name: str) -> None:
    """However long a name, limits that differ in rate or burst count apart, and those that do not count together."""
    gate = ServerGate.of(Resilience())
    for rate, burst in (("1/minute", None), ("1/hour", None), ("1/hour", 2)):
        limit = RouteLimit(rate, burst, name=name)
        assert [is_let_in(limit, gate, rate=rate) for _ in range(3)] == [True, burst == 2, False]
        assert not is_let_in(RouteLimit(rate, burst, name=name), gate, rate=rate)


@pytest.mark.parametrize("name", ["", 5, b"login", "n" * 1001], ids=["empty", "number", "bytes", "endless"])
def test_bad_names(name: Any) -> None:
    """A name that is none is refused where it is written."""
    with pytest.raises(ConfigurationError, match="name"):
        RouteLimit("5/minute", name=name)


@pytest.mark.parametrize(("rate", "burst", "most"), [("5/minute", None, 5), ("5/minute", 2, 2), (str, 3, 3)])
def test_a_cost_that_never_fits(rate: Any, burst: int | None, most: int) -> None:
    """A cost above the burst would refuse every request, so it is refused where it is written."""
    RouteLimit(rate, burst, cost=most)
    with pytest.raises(ConfigurationError, match=f"cost={most + 1}: expected a whole number from 1 to {most}"):
        RouteLimit(rate, burst, cost=most + 1)
    RouteLimit(str, cost=most + 1)  # how much fits is not known before the rate is


def test_one_rate_written_in_several_ways() -> None:
    """The notation of a rate is no part of it: limits that say the same are the same."""
    gate = ServerGate.of(Resilience())
    spellings = ("1/minute", "1 / MINUTE", "1 per minute", "1/1minutes")
    assert [is_let_in(RouteLimit(rate), gate, rate=rate) for rate in spellings] == [True, False, False, False]


@pytest.mark.parametrize("found", [None, ""])
def test_a_key_function_without_a_key_leaves_the_rule_of_the_server(found: Any) -> None:
    """If a function finds no key, the request counts by the server's rule, and clients do not share one bucket."""
    gate = ServerGate(ServerOptions(), limiter=Limiters())
    limit = RouteLimit("1/minute", key=lambda: found)
    keys = []
    for peer in ("203.0.113.1", "203.0.113.2"):
        charge = limit.charge_for(gate, gate.receive({}, peer), "GET /", rate="1/minute", key=found, cost=1)
        assert charge is not None
        keys.append(charge[1])
    assert keys == ["GET / ip:203.0.113.1", "GET / ip:203.0.113.2"]


@pytest.mark.parametrize("found", [7, 0, "7"])
def test_any_other_key_is_its_text(found: Any) -> None:
    """A number is a key, also 0: a service may return the id of a user."""
    gate = ServerGate(ServerOptions(), limiter=Limiters())
    charge = RouteLimit("1/minute").charge_for(gate, gate.receive({}), "GET /", rate="1/minute", key=found, cost=1)
    assert charge is not None
    assert charge[1] == f"GET / {found}"


@pytest.mark.parametrize("rate", [None, ""])
def test_no_rate_is_no_limit(rate: Any) -> None:
    """A function that returns no rate means that the request is not limited."""
    gate = ServerGate(ServerOptions(), limiter=Limiters())
    limit = RouteLimit(by_request)
    assert limit.charge_for(gate, gate.receive({}), "GET /", rate=rate, key="k", cost=1) is None


def test_a_request_that_costs_nothing_is_not_limited() -> None:
    """A computed cost of 0 takes no token, and needs none; a constant of 0 would be a limit that never limits."""
    gate = ServerGate(ServerOptions(), limiter=Limiters())
    limit = RouteLimit("1/minute", cost=lambda: 0)
    assert limit.charge_for(gate, gate.receive({}), "GET /", rate="1/minute", key="k", cost=0) is None
    with pytest.raises(ConfigurationError, match="cost"):
        RouteLimit("1/minute", cost=0)


@pytest.mark.parametrize("cost", [-1, True, 1.5, "1"])
def test_a_computed_cost_is_a_whole_number(cost: Any) -> None:
    """Any other cost is a fault of the function, and the error names the option."""
    gate = ServerGate(ServerOptions(), limiter=Limiters())
    with pytest.raises(ConfigurationError, match="cost"):
        RouteLimit("1/minute", cost=lambda: cost).charge_for(
            gate, gate.receive({}), "GET /", rate="1/minute", key="k", cost=cost
        )


@pytest.mark.parametrize("rate", ["", " "])
def test_an_empty_text_is_no_rate(rate: str) -> None:
    """A constant rate without text is a mistake at its own line: it would be a limit that never limits."""
    with pytest.raises(ConfigurationError, match="rate"):
        RouteLimit(rate)
