"""The alerts and the dashboard name metrics that exist, and each alert fires when it should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from resilience.__main__ import main
from resilience.telemetry import METRICS, REQUEST_DURATION
from resilience.telemetry.alerts import ALERTS, RECORDINGS, rules
from resilience.telemetry.dashboard import dashboard

ROOT = Path(__file__).parents[3]
SERIES = re.compile(r"\bresilience_[a-z0-9_]+")
SELECTOR = re.compile(r"(resilience_[a-z0-9_]+)\{([^}]*)\}")
KNOWN = {metric.series + part: metric for metric in (*METRICS, REQUEST_DURATION) for part in ("", "_count", "_bucket")}
EXPRESSIONS = [each.expr for each in (*RECORDINGS, *ALERTS)]
QUERIES = [
    target["expr"]
    for panel in dashboard()["panels"]  # type: ignore[attr-defined]  # it is plain data
    for target in panel.get("targets", ())
]


@pytest.mark.parametrize("expr", EXPRESSIONS + QUERIES)
def test_every_series_and_label_exists(expr: str) -> None:
    """An expression uses families and labels of the table, and label values that the code gives."""
    recorded = {each.record for each in RECORDINGS}
    for name in SERIES.findall(expr):
        assert name in KNOWN or any(name in record for record in recorded), name
    for name, selector in SELECTOR.findall(expr):
        used = set(re.findall(r"(\w+)[=!]", selector)) - {"job"}
        assert used <= {*KNOWN[name].labels}, name


# The series of each alert: before it holds, and for as long as it fires.
SPELLS: dict[str, dict[str, str]] = {
    "ResilienceCircuitOpen": {'resilience_breaker_circuits{job="shop",policy="pay",state="open"}': "1+0x60"},
    "ResilienceCallsRefused": {
        'resilience_breaker_calls_total{job="shop",policy="pay",outcome="refused"}': "0+60x60",
        'resilience_breaker_calls_total{job="shop",policy="pay",outcome="success"}': "0+60x60",
    },
    "ResilienceCircuitForced": {'resilience_breaker_overrides{job="shop",policy="pay",state="forced_open"}': "1+0x120"},
    "ResilienceRetryBudgetSpent": {'resilience_budget_refused_total{job="shop",policy="pay"}': "0+6x60"},
    "ResilienceRateLimitRefuses": {
        'resilience_ratelimit_decisions_total{job="shop",policy="api",outcome="refused"}': "0+60x60",
        'resilience_ratelimit_decisions_total{job="shop",policy="api",outcome="allowed"}': "0+60x60",
    },
    "ResilienceBulkheadFull": {
        'resilience_bulkhead_refused_total{job="shop",policy="pay",kind="bulkhead",reason="full"}': "0+6x60"
    },
    "ResilienceLateThreads": {'resilience_timeout_late_threads{job="shop",policy="pay"}': "3+0x60"},
    "ResilienceFallbackExhausted": {
        'resilience_fallback_calls_total{job="shop",policy="pay",outcome="exhausted"}': "0+6x60"
    },
    "ResiliencePoolExhausted": {'resilience_pool_timeouts_total{job="shop",policy="ledger"}': "0+6x60"},
    "ResiliencePoolCannotConnect": {'resilience_pool_connect_failures_total{job="shop",policy="ledger"}': "0+6x60"},
    "ResiliencePoolLeaks": {
        'resilience_pool_leaks_total{job="shop",policy="ledger"}': "0+1x60",
        'resilience_pool_lost_leases_total{job="shop",policy="ledger"}': "0+0x60",
    },
    "ResilienceRedisDown": {'resilience_redis_down{job="shop",kind="ratelimit"}': "1+0x60"},
    "ResilienceCheckFailed": {'resilience_health_checks{job="shop",policy="redis",state="failed"}': "1+0x60"},
    "ResilienceDrainStuck": {'resilience_lifecycle_state{job="shop",instance="a",state="draining"}': "1+0x60"},
    "ResilienceEventsDropped": {'resilience_events_dropped_total{job="shop"}': "0+6x60"},
    "ResilienceEventLoopBlocked": {'resilience_process_loop_lag_seconds_total{job="shop",instance="a"}': "0+30x60"},
    "ResilienceRequestsFail": {
        'resilience_server_request_duration_seconds_count{job="shop",method="GET",route="/",status="503"}': "0+60x60",
        'resilience_server_request_duration_seconds_count{job="shop",method="GET",route="/",status="200"}': "0+60x60",
    },
}
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool of Debian's package prometheus is not installed")


def test_every_alert_has_a_spell_and_a_page() -> None:
    """No alert is without a test and a runbook page, and no page is without an alert."""
    assert SPELLS.keys() == {each.name for each in ALERTS}
    pages = {path.stem for path in (ROOT / "docs" / "runbook").glob("*.md")} - {"index"}
    assert pages == {each.page for each in ALERTS}


def test_every_link_of_an_alert_leads_to_a_page() -> None:
    """Without an address, an alert names its page in the repository."""
    links = re.findall(r'"runbook_url": "(.*?)"', json.dumps(rules()))
    assert len(links) == len(ALERTS)
    assert [link for link in links if not (ROOT / link).is_file()] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "runbook").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_names_series_that_exist(page: Path) -> None:
    """The series and expressions on a page are those of the table and of the alerts."""
    text = page.read_text()
    for name in SERIES.findall(text):
        assert name in KNOWN or any(name in each.record for each in RECORDINGS), name
    for alert in ALERTS:
        if alert.page == page.stem:
            assert alert.expr in text


def unit_tests() -> dict[str, Any]:
    """Return promtool's tests: each alert fires in its spell, and is silent while all series are quiet."""
    tests = []
    for alert in ALERTS:
        fires = {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in SPELLS[alert.name].items()],
            "promql_expr_test": [],
            "alert_rule_test": [{"eval_time": "0m", "alertname": alert.name, "exp_alerts": []}],
        }
        quiet = {
            "interval": "1m",
            "input_series": [{"series": name, "values": "0+0x60"} for name in SPELLS[alert.name]],
            "alert_rule_test": [{"eval_time": "60m", "alertname": alert.name, "exp_alerts": []}],
        }
        tests += [fires, quiet]
    return {"rule_files": ["rules.json"], "evaluation_interval": "1m", "tests": tests}


def run_promtool(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(PROMTOOL), *arguments], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


@needs_promtool
@pytest.mark.once
def test_promtool_accepts_the_rules_and_finds_each_alert_firing(tmp_path: Path) -> None:
    """The rules are valid; at the end of its spell each alert fires once, and with quiet series never."""
    (tmp_path / "rules.json").write_text(json.dumps(rules()))
    assert "SUCCESS" in run_promtool(tmp_path, "check", "rules", "rules.json")
    (tmp_path / "tests.json").write_text(json.dumps(unit_tests()))
    assert "FAILED" not in run_promtool(tmp_path, "test", "rules", "tests.json")
    # Expecting silence must fail for each alert: so each one fires.
    for alert in ALERTS:
        spell = [{"series": name, "values": values} for name, values in SPELLS[alert.name].items()]
        at = "115m" if alert.after == "1h" else "55m"
        silent = [{"eval_time": at, "alertname": alert.name, "exp_alerts": []}]
        tests = [{"interval": "1m", "input_series": spell, "alert_rule_test": silent}]
        wanted = {"rule_files": ["rules.json"], "evaluation_interval": "1m", "tests": tests}
        (tmp_path / "tests.json").write_text(json.dumps(wanted))
        output = run_promtool(tmp_path, "test", "rules", "tests.json")
        assert f'alertname="{alert.name}"' in output, output


def test_the_command_prints_rules_dashboard_and_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    """The outputs are JSON that Prometheus and Grafana import; without an option it lists all metrics."""
    assert main(["metrics", "--rules"]) == 0
    assert json.loads(capsys.readouterr().out) == rules()
    assert main(["metrics", "--rules", "--runbook", "https://docs.shop.example/runbook/"]) == 0
    links = re.findall(r'"runbook_url": "(.*?)"', capsys.readouterr().out)
    assert links == [f"https://docs.shop.example/runbook/{each.page}.html" for each in ALERTS]
    assert main(["metrics", "--dashboard"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Resilience"
    assert main(["metrics"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [metric.name for metric in METRICS]


def test_the_panels_do_not_overlap() -> None:
    """Each panel has an id and a place of its own."""
    panels: Any = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
