"""The settings that only clients have: a layer below the pipeline `default`."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from resilience.config import Config, load

DEFAULTS = {
    "retry": {"attempts": 3, "timeout": 30.0},
    "breaker": {"failure_rate_threshold": 0.5, "reset_timeout": 30.0},
}


def config(**variables: str) -> Config:
    return load({f"RESILIENCE_PIPELINE__{name}": text for name, text in variables.items()})


def set_options(given: Config, name: str) -> dict[str, dict[str, Any]]:
    """Return the options of the clients of a pipeline that have another value than the default of the option."""
    return {
        kind: {
            field.name: getattr(options, field.name)
            for field in dataclasses.fields(options)
            if getattr(options, field.name) != field.default or field.name == "attempts"
        }
        for kind, options in given.client_pipeline(name).items()
    }


def test_a_client_has_a_retry_and_a_breaker() -> None:
    """Law: with nothing configured, a client has its defaults, and a pipeline of functions has none."""
    assert set_options(Config(), "http") == DEFAULTS
    assert Config().pipeline("http") == {}


@pytest.mark.parametrize("name", ["DEFAULT", "HTTP"])
def test_a_number_takes_no_policy_away(name: str) -> None:
    """Law: a setting of one policy, inherited or not, changes that policy alone."""
    given = config(**{f"{name}__TIMEOUT__SECONDS": "1s"})
    assert set_options(given, "http") == {**DEFAULTS, "timeout": {"seconds": 1.0}}
    assert list(given.pipeline("http")) == ["timeout"]


def test_a_number_changes_no_other_number_of_its_policy() -> None:
    """Law: a setting stands above the defaults of clients field by field; `none` removes such a default."""
    given = config(DEFAULT__RETRY__ATTEMPTS="5", HTTP__BREAKER__RESET_TIMEOUT="10s", HTTP__RETRY__TIMEOUT="none")
    assert set_options(given, "http") == {
        "retry": {"attempts": 5},
        "breaker": {"failure_rate_threshold": 0.5, "reset_timeout": 10.0},
    }
    assert set_options(given, "shop.Orders")["retry"] == {"attempts": 5, "timeout": 30.0}


@pytest.mark.parametrize("field", ["fail_max", "failure_count_threshold"])
def test_another_rule_for_failures_replaces_the_rate(field: str) -> None:
    """Law: a rule for failures that is set is the only one; a rule for slow calls stands beside the rate."""
    given = config(**{f"HTTP__BREAKER__{field.upper()}": "3"})
    assert set_options(given, "http")["breaker"] == {field: 3, "reset_timeout": 30.0}
    slow = config(HTTP__BREAKER__SLOW_CALL_RATE_THRESHOLD="0.2")
    assert set_options(slow, "http")["breaker"] == {**DEFAULTS["breaker"], "slow_call_rate_threshold": 0.2}


def test_only_enabled_false_removes_a_policy() -> None:
    """Law: `ENABLED=false`, in the pipeline or in `default`, removes the policy; the pipeline can bring it back."""
    given = config(DEFAULT__RETRY__ENABLED="false", STOCK__RETRY__ENABLED="true", PAY__BREAKER__ENABLED="false")
    assert list(given.client_pipeline("http")) == ["breaker"]
    assert list(given.client_pipeline("stock")) == ["retry", "breaker"]
    assert list(given.client_pipeline("pay")) == []


def test_values_say_that_they_are_for_clients() -> None:
    """Law: `values` has each default of clients once, with the source `client default`."""
    rows = [
        (row.variable, row.text)
        for row in config(PAY__RETRY__ATTEMPTS="5").values(pipeline="pay")
        if row.source == "client default"
    ]
    assert rows == [
        ("RESILIENCE_PIPELINE__PAY__RETRY__TIMEOUT", "30s"),
        ("RESILIENCE_PIPELINE__PAY__BREAKER__FAILURE_RATE_THRESHOLD", "0.5"),
        ("RESILIENCE_PIPELINE__PAY__BREAKER__RESET_TIMEOUT", "30s"),
    ]
    assert {row.source for row in Config().values(pipeline="http")} == {"client default"}
    assert Config().values(pipeline="unknown") == ()
    off = config(PAY__RETRY__ENABLED="no", PAY__BREAKER__ENABLED="no").values(pipeline="pay")
    assert "client default" not in {row.source for row in off}


def test_sources_of_a_client() -> None:
    """Law: the source of each option of a client names the variable, `client default` or `default`."""
    sources = config(PAY__RETRY__ATTEMPTS="5").client_sources("pay", "retry")
    assert sources["attempts"] == "RESILIENCE_PIPELINE__PAY__RETRY__ATTEMPTS"
    assert (sources["timeout"], sources["backoff"]) == ("client default", "default")
