"""`toolkit.snapshot()`: every part of a toolkit as plain data of bounded size."""

from __future__ import annotations

import json

import pytest

from resilience import CircuitBreaker, CircuitOpenError, Resilience, RetryBudget
from resilience.health import CheckFailedError, breaker_check
from resilience.keyed import Keyed

SETTINGS = {
    "RESILIENCE_SERVICE__NAME": "orders",
    "RESILIENCE_PIPELINE__SHOP__RETRY__ENABLED": "false",
    "RESILIENCE_PIPELINE__SHOP__BREAKER__FAIL_MAX": "1",
    "RESILIENCE_PIPELINE__SHOP__BULKHEAD__MAX_CONCURRENT_CALLS": "5",
    "RESILIENCE_LIMITER__LOGIN__RATE": "5/minute",
    "RESILIENCE_BUDGET__SHARED__RATIO": "0.2",
}


def by_host(host: str) -> str:
    return host


def failing(_host: str) -> None:
    raise ConnectionError


def open_circuits(toolkit: Resilience, *hosts: str) -> None:
    client = toolkit.client_pipeline("shop", by_host)
    for host in hosts:
        with pytest.raises((ConnectionError, CircuitOpenError)):
            client.call(failing, host)


def test_a_snapshot_has_every_part() -> None:
    """Law: pipelines, clients by host, limiters, budgets, checks and lifecycle are shown, as JSON can hold them."""
    toolkit = Resilience.from_env(SETTINGS)
    open_circuits(toolkit, "a")
    toolkit.client_pipeline("shop", by_host).call(len, "b")
    toolkit.limiter("login").acquire("ada")
    toolkit.health.add("ledger", lambda: True)
    shown = toolkit.snapshot()
    assert json.loads(json.dumps(shown)) == shown
    assert (shown["service"], shown["redis"]) == ("orders", None)
    (pipeline,) = shown["pipelines"]
    breaker, bulkhead = pipeline["clients"]
    assert {host: figures["state"] for host, figures in breaker["each"].items()} == {"a": "open", "b": "closed"}
    assert set(bulkhead["each"]) == {"a", "b"}
    assert [limiter["name"] for limiter in shown["limiters"]] == ["login"]
    assert [budget["name"] for budget in shown["budgets"]] == ["shared"]
    assert shown["checks"] == [
        {"name": "ledger", "groups": ["ready"], "failure": "fail", "status": "unknown", "age": None}
    ]
    assert shown["lifecycle"] == {"state": "starting", "in_flight": 0}


def test_a_snapshot_changes_nothing() -> None:
    """Law: a snapshot builds no part, runs no check and takes no token."""
    toolkit = Resilience.from_env(SETTINGS)
    empty = toolkit.snapshot()
    assert (empty["pipelines"], empty["limiters"], empty["checks"], empty["lifecycle"]) == ([], [], [], None)
    ran: list[int] = []
    toolkit.health.add("ledger", lambda: ran.append(1))
    toolkit.limiter("login")
    open_circuits(toolkit, "a")
    first, second = toolkit.snapshot(), toolkit.snapshot()
    assert ran == []
    assert (
        first["limiters"] == second["limiters"] == [{"name": "login", "rate": "5/minute", "burst": 5, "remaining": 5}]
    )


def test_the_last_outcome_of_a_check_is_shown_without_its_reason() -> None:
    """Law: a check that has run is ok or failed; its reason, which may have secrets, stays in the log."""
    toolkit = Resilience.from_env(SETTINGS)
    toolkit.lifecycle.started()

    def broken() -> None:
        raise CheckFailedError("password=hunter2")

    toolkit.health.add("ledger", broken)
    toolkit.health.report("ready")
    text = json.dumps(toolkit.snapshot())
    assert toolkit.snapshot()["checks"][0]["status"] == "failed"
    assert "hunter2" not in text


def test_a_snapshot_is_bounded_and_shows_open_circuits_first() -> None:
    """Law: of a thousand hosts, a hundred are shown, the open circuits among them, and the others are counted."""
    toolkit = Resilience.from_env(SETTINGS)
    open_circuits(toolkit, "bank")
    client = toolkit.client_pipeline("shop", by_host)
    for number in range(500):
        client.call(len, f"host-{number}")
    breaker, bulkhead = toolkit.snapshot()["pipelines"][0]["clients"]
    assert len(breaker["each"]) == len(bulkhead["each"]) == 100
    assert breaker["each"]["bank"]["state"] == "open"
    assert breaker["left_out"] == 401
    assert "host-499" in breaker["each"]


def test_names_cannot_forge_lines_or_show_secrets() -> None:
    """Law: a host that comes from outside stands on one line, cut, and without credentials."""
    toolkit = Resilience.from_env(SETTINGS)
    client = toolkit.client_pipeline("shop", by_host)
    for host in ("a\nprocess 1", "x" * 5000, "http://user:hunter2@host"):
        client.call(len, host)
    hosts = list(toolkit.snapshot()["pipelines"][0]["clients"][0]["each"])
    assert len(hosts) == 3
    assert all(host.isprintable() and len(host) < 400 and "hunter2" not in host for host in hosts)


def test_a_budget_of_code_is_no_part_of_a_toolkit() -> None:
    """Law: budgets that a toolkit does not configure are not its own."""
    budget = RetryBudget("elsewhere")
    assert Resilience.from_env(SETTINGS).snapshot()["budgets"][0]["name"] != budget.name


def test_a_check_names_the_open_circuits() -> None:
    """Law: `breaker_check` takes a pipeline, with its clients, or keyed breakers, and names at most five circuits."""
    toolkit = Resilience.from_env(SETTINGS)
    check = breaker_check(toolkit.pipeline("shop"))
    check()
    open_circuits(toolkit, "a")
    with pytest.raises(CheckFailedError, match=r"^a is open$"):
        check()
    open_circuits(toolkit, *(f"host-{number}" for number in range(10)))
    with pytest.raises(CheckFailedError, match=r"^a is open, host-0 is open, .* and 6 more circuits$"):
        check()
    keyed = Keyed(lambda _host: CircuitBreaker(1), by_host, name="own")
    check = breaker_check(keyed)
    check()
    breaker = keyed.slot("evil\nhost").policy
    assert isinstance(breaker, CircuitBreaker)
    breaker.open()
    with pytest.raises(CheckFailedError, match=r"^evil\\nhost is open$"):
        check()


def test_readiness_names_the_open_circuits() -> None:
    """Law: the report of readiness shows the names as a warning, if details are on."""
    toolkit = Resilience.from_env({**SETTINGS, "RESILIENCE_HEALTH__DETAILS": "true"})
    toolkit.lifecycle.started()
    toolkit.health.add("shop", breaker_check(toolkit.pipeline("shop")))
    open_circuits(toolkit, "api.bank.example")
    report = toolkit.health.report("ready")
    assert report.status == 200
    assert "api.bank.example is open" in report.text(verbose=True)
