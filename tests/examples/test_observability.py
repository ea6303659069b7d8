"""The example with a real Prometheus shows an alert that fires in an outage and ends with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_PROMETHEUS = "the program prometheus (Debian's package prometheus) is not installed"


@pytest.mark.servers
@pytest.mark.once
@pytest.mark.skipif(shutil.which("prometheus") is None, reason=NO_PROMETHEUS)
def test_an_alert_fires_in_the_outage_and_ends_with_it() -> None:
    """No alert before the outage; the open circuit is an alert during it; the alert ends when the provider is well."""
    done = subprocess.run(
        [sys.executable, "examples/observability/watch_outage.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    before, during, after = done.stdout.splitlines()[1:]
    assert before == "alerts before the outage: none"
    assert "ResilienceCircuitOpen (shop payments.breaker)" in during
    assert after.endswith("the alert on the circuit is over")


@pytest.mark.skipif(shutil.which("prometheus") is not None, reason="prometheus is installed")
def test_without_prometheus_it_says_what_to_install() -> None:
    """The example names the missing program."""
    done = subprocess.run(
        [sys.executable, "examples/observability/watch_outage.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "apt install prometheus" in done.stderr
