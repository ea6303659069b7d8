"""Which names a transport may be given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resilience import Resilience, Retry
from resilience.config import ConfigurationWarning
from resilience.errors import ConfigurationError
from resilience_http import AsyncResilienceTransport, ResilienceAdapter, ResilienceTransport

PAYMENTS = {"RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATTEMPTS": "4"}
EVERY_CLIENT = pytest.mark.parametrize("client", [ResilienceTransport, AsyncResilienceTransport, ResilienceAdapter])


@EVERY_CLIENT
def test_a_misspelt_name_is_refused(client: Callable[..., Any]) -> None:
    """A name without a pipeline would be a client without any protection, not even the usual one."""
    with pytest.raises(ConfigurationError, match=r"no pipeline 'paymnets' is configured.*did you mean payments\?"):
        client(resilience=Resilience.from_env(PAYMENTS), pipeline="paymnets")
    with pytest.raises(ConfigurationError, match="no pipeline 'payments' is configured; known: none"):
        client(resilience=Resilience(), pipeline="payments")


@EVERY_CLIENT
def test_a_name_may_be_one_that_inherits_or_that_code_has_made(client: Callable[..., Any]) -> None:
    """Settings of DEFAULT are in force for every name, above the defaults of clients; policies of code stay alone."""
    inheriting = Resilience.from_env({"RESILIENCE_PIPELINE__DEFAULT__RETRY__ATTEMPTS": "2"})
    policies = client(resilience=inheriting, pipeline="orders").pipeline.policies
    assert [policy.kind for policy in policies] == ["retry", "breaker"]
    assert policies[0].options.attempts == 2
    toolkit, retry = Resilience(), Retry()
    toolkit.pipeline("orders", retry)
    assert client(resilience=toolkit, pipeline="orders").pipeline.policies == (retry,)


@EVERY_CLIENT
@pytest.mark.parametrize("wrong", [3, Retry(), ("payments",)])
def test_what_is_neither_pipeline_nor_name_is_refused(client: Callable[..., Any], wrong: object) -> None:
    """The wrong kind of thing is told by name, value and rule."""
    with pytest.raises(ConfigurationError, match=r"pipeline=.*expected a Pipeline, or the name of one"):
        client(resilience=Resilience(), pipeline=wrong)


@EVERY_CLIENT
def test_without_a_name_the_usual_policies_hold(client: Callable[..., Any]) -> None:
    """Other pipelines being configured takes nothing away from a client that names none."""
    pipeline = client(resilience=Resilience.from_env(PAYMENTS)).pipeline
    assert [policy.kind for policy in pipeline.policies] == ["retry", "breaker"]


@EVERY_CLIENT
def test_a_warning_points_past_the_client(client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with the environment is told at the line that made the client, not at one of the adapter."""
    monkeypatch.setenv("RESILIENCE_STRIKT", "true")
    with pytest.warns(ConfigurationWarning) as warned:
        client()
    assert warned[0].filename == __file__
