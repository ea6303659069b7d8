"""The metrics page is valid for Prometheus, whatever the names in it, and costs the requests nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from resilience import CircuitBreaker, CircuitOpenError, ConfigurationError, Pipeline, Resilience
from resilience.prometheus import MetricsPage, PrometheusCollector
from resilience.prometheus._failures import _quiet_until
from resilience.prometheus._opening import OPEN_PAGE
from resilience.prometheus._page import METRICS_PATH
from resilience.telemetry import METRICS, REQUEST_DURATION, Family, MetricKind, Readings

Parser = Callable[[str], Iterable[Any]]
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(autouse=True)
def _no_port_stays_open() -> Iterator[None]:
    yield
    OPEN_PAGE.close()


@pytest.fixture
def page() -> MetricsPage:
    return MetricsPage(registry=CollectorRegistry())


def text_of(page: MetricsPage, accept: str = "text/plain") -> str:
    reply = page.handle(METRICS_PATH, "", accept)
    assert reply.status == 200
    assert reply.headers["Content-Length"] == str(len(reply.body))
    return reply.body.decode()


def test_a_policy_has_its_counts(page: MetricsPage) -> None:
    """A trip and a refusal of a breaker stand in the text."""
    pipeline = Pipeline("prometheus-trip", CircuitBreaker(fail_max=1))
    with pytest.raises(ZeroDivisionError):
        pipeline.call(lambda: 1 / 0)
    with pytest.raises(CircuitOpenError):
        pipeline.call(lambda: 1)
    text = text_of(page)
    policy = 'policy="prometheus-trip.breaker"'
    assert f'resilience_breaker_calls_total{{outcome="refused",{policy}}} 1.0' in text
    assert f'resilience_breaker_circuits{{{policy},state="open"}} 1.0' in text


@pytest.mark.parametrize(("accept", "parse"), [("text/plain", parse_text), (OPENMETRICS, parse_openmetrics)])
@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline", "tab\t\x00", "ü" * 100, "{brace}=1"])
def test_every_name_is_valid(page: MetricsPage, accept: str, parse: Parser, name: str) -> None:
    """The official parsers read the text, and return the name of the policy as it is."""
    breaker = CircuitBreaker(name=name)
    Pipeline("any", breaker).call(str)
    families = {family.name: family for family in parse(text_of(page, accept))}
    labels = [sample.labels["policy"] for sample in families["resilience_breaker_circuits"].samples]
    assert breaker.name in labels


@pytest.mark.parametrize(("accept", "parse"), [("text/plain", parse_text), (OPENMETRICS, parse_openmetrics)])
def test_no_family_stands_twice(page: MetricsPage, accept: str, parse: Parser) -> None:
    """Each family has one place, and its name and description are those of the table."""
    Pipeline("twice", CircuitBreaker(name="one"))
    Pipeline("twice", CircuitBreaker(name="one"))
    page.request_ended("GET", "/orders/{id}", 200, 0.01, "")
    names = [family.name for family in parse(text_of(page, accept))]
    assert len(names) == len(set(names))
    known = {metric.family for metric in (*METRICS, REQUEST_DURATION)}
    begun = REQUEST_DURATION.family + "_created"  # of prometheus-client
    assert set(names) - {begun} <= known


def test_names_are_unique_and_have_no_total() -> None:
    """Two rows never become one family: a counter gets `_total`, so no name ends in it."""
    names = [metric.family for metric in (*METRICS, REQUEST_DURATION)]
    assert len(names) == len(set(names))
    assert not [name for name in names if name.endswith(("_total", "_created", "_count", "_sum", "_bucket", "_info"))]
    assert {metric.kind for metric in METRICS} <= {MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM}


def test_a_bucket_has_the_trace_of_its_last_request(page: MetricsPage) -> None:
    """OpenMetrics shows the trace as an exemplar; the older text format has none."""
    page.request_ended("GET", "/orders", 200, 0.02, "a" * 32)
    page.request_ended("GET", "/orders", 200, 2.0, "")
    lines = text_of(page, OPENMETRICS).splitlines()
    assert [line for line in lines if 'le="0.025"' in line and f'# {{trace_id="{"a" * 32}"}} 0.02' in line]
    assert "a" * 32 not in text_of(page)


def test_clients_cannot_make_series_without_end(page: MetricsPage) -> None:
    """A method that is not of HTTP has one series, and after 1,000 combinations there is one for the rest."""
    for number in range(1200):
        page.request_ended(f"X{number}", f"/route-{number}", 200, 0.01, "")
    lines = [line for line in text_of(page).splitlines() if "duration_seconds_count{" in line]
    assert len(lines) == 1001
    assert (
        'resilience_server_request_duration_seconds_count{method="(other)",route="(other)",status="200"} 200.0' in lines
    )


def test_fifty_clients_cost_one_reading() -> None:
    """Scrapes at the same time share one text."""
    collected = []

    class Counting(Readings):
        def collect(self) -> list[Family]:
            collected.append(1)
            return super().collect()

    page = MetricsPage(registry=CollectorRegistry(), readings=Counting())
    threads = [threading.Thread(target=page.handle, args=(METRICS_PATH,)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(collected) == 1


def test_another_path_is_not_found(page: MetricsPage) -> None:
    """A port of its own answers nothing but the page."""
    assert page.handle("/readyz").status == 404


def test_an_application_with_its_own_registry_registers_the_collector() -> None:
    """The collector works with any registry, beside the metrics of the application."""
    registry = CollectorRegistry()
    Counter("orders", "Orders", registry=registry).inc()
    registry.register(PrometheusCollector())
    breaker = CircuitBreaker(name="own-registry")
    assert breaker.name == "own-registry"
    text = generate_latest(registry).decode()
    assert "orders_total 1.0" in text
    assert 'resilience_breaker_circuits{policy="own-registry",state="closed"} 1.0' in text


@pytest.mark.parametrize("directory", ["/nowhere/at/all", __file__])
def test_a_missing_directory_stops_the_start(monkeypatch: pytest.MonkeyPatch, directory: str) -> None:
    """`PROMETHEUS_MULTIPROC_DIR` must be a directory that the process can write."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", directory)
    with pytest.raises(ConfigurationError, match=r"PROMETHEUS_MULTIPROC_DIR=.*a directory that exists"):
        MetricsPage(registry=CollectorRegistry())


def test_the_metrics_are_closed_unless_opened() -> None:
    """Without a setting there is no page, and prometheus-client is not used."""
    assert Resilience.from_env({}).metrics is None
    assert "/metrics" not in Resilience.from_env({}).health.paths


def test_a_taken_port_leaves_the_process_alone_and_two_toolkits_share_a_page() -> None:
    """All toolkits of a process have one page, and a port is opened once."""
    one = Resilience.from_env({"RESILIENCE_METRICS__PORT": "0"})
    two = Resilience.from_env({"RESILIENCE_METRICS__PORT": "0"})
    assert one.metrics is two.metrics is not None


def test_a_bad_host_is_named() -> None:
    """An address that is not of this machine stops the start, with the name of the variable."""
    toolkit = Resilience.from_env({"RESILIENCE_METRICS__PORT": "0", "RESILIENCE_METRICS__HOST": "192.0.2.1"})
    with pytest.raises(ConfigurationError) as caught:
        _ = toolkit.metrics
    assert "RESILIENCE_METRICS__" in str(caught.value)


def test_metrics_that_fail_cost_no_request(page: MetricsPage, caplog: pytest.LogCaptureFixture) -> None:
    """A request ends as usual if it cannot be counted, and the log says so once a minute."""
    _quiet_until.clear()
    assert page.durations is not None
    page.durations._histogram = None  # type: ignore[assignment]  # as a directory that was removed: each access raises
    for number in range(3):
        page.request_ended("GET", f"/{number}", 200, 0.1, "")
    assert [record.getMessage() for record in caplog.records] == ["metrics: a request was not counted"]


def test_a_collector_that_fails_is_a_failed_scrape(caplog: pytest.LogCaptureFixture) -> None:
    """A collector of the application that raises gives the scrape a 500 without its text, and the log has the error."""
    _quiet_until.clear()

    class Broken(Collector):
        def collect(self) -> Iterable[Metric]:
            raise OSError("secret")

        def describe(self) -> Iterable[Metric]:
            return []

    registry = CollectorRegistry()
    page = MetricsPage(registry=registry)
    registry.register(Broken())
    reply = page.handle(METRICS_PATH)
    assert (reply.status, reply.body) == (500, b"")
    assert [record.getMessage() for record in caplog.records] == ["metrics: the page could not be made"]
