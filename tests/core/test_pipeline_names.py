"""Pipelines whose name is not configured, and pipelines that are empty on purpose."""

from __future__ import annotations

import warnings

import pytest

from resilience.config import ConfigurationWarning, load
from resilience.errors import ConfigurationError
from resilience.retry import Retry
from resilience.toolkit import Resilience

PAYMENTS = {"RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATTEMPTS": "4"}
DEFAULT = {"RESILIENCE_PIPELINE__DEFAULT__RETRY__ATTEMPTS": "2"}
MISSPELT = "no pipeline 'paymnets' is configured; known: payments (did you mean payments?)"


def test_a_pipeline_that_nobody_configured_is_warned_about() -> None:
    """Law: a pipeline that guards nothing because its name is not configured warns at the line that asks for it."""
    with pytest.warns(ConfigurationWarning) as warned:
        pipeline = Resilience.from_env(PAYMENTS).pipeline("paymnets")
    (warning,) = warned
    assert str(warning.message) == (
        f"{MISSPELT}, so it guards nothing. RESILIENCE_PIPELINE__PAYMNETS__ENABLED=false says that this is meant; "
        "RESILIENCE_STRICT refuses it"
    )
    assert warning.filename == __file__
    assert pipeline.call(len, "abc") == 3


def test_in_strict_mode_such_a_pipeline_is_refused() -> None:
    """What would only be warned about is an error where misspelt variables are one, and leaves nothing behind."""
    toolkit = Resilience.from_env(PAYMENTS, strict=True)
    for _ in range(2):
        with pytest.raises(ConfigurationError) as caught:
            toolkit.pipeline("paymnets")
        assert str(caught.value) == MISSPELT
    assert len(toolkit.pipeline("paymnets", Retry()).policies) == 1


@pytest.mark.parametrize("strict", [False, True])
def test_a_pipeline_that_has_its_policies_is_nobodys_mistake(*, strict: bool) -> None:
    """Configured, inherited, given in code, or off on purpose: no warning."""
    off = {"RESILIENCE_PIPELINE__ORDERS__RETRY__ENABLED": "false"}
    empty = {"RESILIENCE_PIPELINE__ORDERS__ENABLED": "false"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Resilience.from_env(PAYMENTS, strict=strict).pipeline("Payments")
        Resilience.from_env(PAYMENTS | DEFAULT, strict=strict).pipeline("orders")
        Resilience.from_env(PAYMENTS | off, strict=strict).pipeline("orders")
        Resilience.from_env(PAYMENTS | empty, strict=strict).pipeline("orders")
        Resilience.from_env(empty, strict=strict).pipeline("orders")
        Resilience.from_env({}, strict=strict, pipeline={"orders": {"enabled": False}}).pipeline("orders")
        toolkit = Resilience.from_env(PAYMENTS, strict=strict)
        assert toolkit.pipeline("orders", Retry()) is toolkit.pipeline("orders")


@pytest.mark.parametrize("environ", [{}, {"RESILIENCE_PIPELNE__ORDERS__RETRY__ATTEMPTS": "4"}])
def test_a_service_whose_configuration_is_missing_is_warned_about(environ: dict[str, str]) -> None:
    """Law: no pipeline at all is configured (a ConfigMap is not mounted, the prefix is misspelt): the same warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        toolkit = Resilience.from_env(environ)
    with pytest.warns(ConfigurationWarning, match=r"no pipeline 'orders' is configured; known: none") as warned:
        toolkit.pipeline("orders")
    assert warned[0].filename == __file__
    with pytest.raises(ConfigurationError, match="no pipeline 'orders' is configured; known: none"):
        Resilience.from_env({}, strict=True).pipeline("orders")


def test_a_pipeline_is_switched_off_as_a_whole() -> None:
    """Law: `ENABLED=false` of a pipeline removes its configured policies, also from its clients; code keeps its own."""
    off = {"RESILIENCE_PIPELINE__PAYMENTS__ENABLED": "false"}
    toolkit = Resilience.from_env(PAYMENTS | DEFAULT | off)
    assert toolkit.pipeline("payments").policies == ()
    assert toolkit.client_pipeline("payments", "api.bank.example").policies == ()
    assert len(toolkit.pipeline("orders").policies) == 1
    retry = Retry()
    assert Resilience.from_env(PAYMENTS | off).pipeline("payments", retry).policies == (retry,)


def test_default_switches_all_pipelines_off() -> None:
    """Law: `DEFAULT` switches off each pipeline that is not on by a setting of its own."""
    environ = PAYMENTS | {
        "RESILIENCE_PIPELINE__DEFAULT__ENABLED": "false",
        "RESILIENCE_PIPELINE__STOCK__ENABLED": "true",
        "RESILIENCE_PIPELINE__STOCK__RETRY__ATTEMPTS": "2",
    }
    toolkit = Resilience.from_env(environ)
    assert toolkit.pipeline("payments").policies == ()
    assert len(toolkit.pipeline("stock").policies) == 1


def test_a_pipeline_can_be_asked_for_only_where_it_exists() -> None:
    """Who is told a name and nothing else gets what was configured, inherited or given in code, and no empty one."""
    toolkit = Resilience.from_env(PAYMENTS)
    assert toolkit.existing_pipeline("Payments") is toolkit.pipeline("payments")
    given = toolkit.pipeline("shop.Orders", Retry())
    assert toolkit.existing_pipeline("shop-orders") is given
    assert Resilience.from_env(DEFAULT).existing_pipeline("orders").policies
    with pytest.raises(ConfigurationError) as caught:
        toolkit.existing_pipeline("shop.Odrers")
    assert str(caught.value) == (
        "no pipeline 'shop.Odrers' is configured; known: payments, shop.Orders (did you mean shop.Orders?)"
    )


def test_a_name_like_no_other_has_no_suggestion() -> None:
    """Nothing is offered that is not alike; where nothing is configured at all, the variables are."""
    with pytest.raises(ConfigurationError) as caught:
        Resilience.from_env(PAYMENTS).existing_pipeline("stock")
    assert str(caught.value) == "no pipeline 'stock' is configured; known: payments"
    with pytest.raises(ConfigurationError) as caught:
        Resilience().existing_pipeline("stock-api")
    assert str(caught.value) == (
        "no pipeline 'stock-api' is configured; known: none (RESILIENCE_PIPELINE__STOCK_API__<POLICY>__<FIELD> would)"
    )


def test_what_was_asked_for_in_vain_does_not_exist_afterwards() -> None:
    """An empty pipeline that somebody got with a warning is still no pipeline."""
    toolkit = Resilience.from_env(PAYMENTS)
    with pytest.warns(ConfigurationWarning):
        toolkit.pipeline("paymnets")
    with pytest.raises(ConfigurationError):
        toolkit.existing_pipeline("paymnets")


def test_a_warning_points_at_the_line_that_asked_for_the_configuration() -> None:
    """Whoever reads it finds a line of the service, whichever way the configuration was read."""
    for read in (load, Resilience.from_env):
        with pytest.warns(ConfigurationWarning) as warned:
            read({"RESILIENCE_STRIKT": "true"})
        assert warned[0].filename == __file__
