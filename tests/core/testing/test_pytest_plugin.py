"""The pytest plugin, in the process of a user's tests: it has to be there before any policy is imported."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from resilience import (
    Bulkhead,
    Cache,
    CircuitBreaker,
    Fallback,
    Hedge,
    Pipeline,
    RateLimit,
    RateLimitedError,
    Retry,
    SingleFlight,
    Timeout,
)
from resilience.policy import AroundPolicy, Policy
from resilience.testing import ManualClock, manual_clock, policies_off, reset
from resilience.testing._process_clock import ProcessClock

ROOT = Path(__file__).parents[3]
SUITE = Path(__file__).parent / "suite"
TESTS = sum(
    line.startswith(("def test_", "async def test_")) for line in (SUITE / "shop_suite.py").read_text().splitlines()
)


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Return the exit code and the output of pytest in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(folder / "pytest.ini"), "--rootdir", str(folder)]
    if not entry_points(group="pytest11", name="resilience"):  # a tree that is not installed
        command += ["-p", "resilience.testing._pytest_plugin"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTEST_"))}
    done = subprocess.run(
        [*command, *arguments, str(folder)], capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    return done.returncode, done.stdout + done.stderr


def test_each_fixture_acts_on_all_policies_of_the_process() -> None:
    """All tests of a service that uses every fixture pass, in the order of the file."""
    code, output = run(SUITE)
    assert (code, f"{TESTS} passed" in output) == (0, True), output


def test_the_reset_can_be_left_out() -> None:
    """With `resilience_reset = false`, a test finds the state that the test before it has left."""
    code, output = run(SUITE, "-o", "resilience_reset=false", "-k", "is_gone")
    assert code == 1, output
    assert "1 failed, 1 passed" in output, output


def test_the_test_file_of_the_page_passes(tmp_path: Path) -> None:
    """A reader who copies the page's test file sees its tests pass."""
    page = (ROOT / "docs" / "howto" / "testing.md").read_text()
    example = next(code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def test_" in code)
    (tmp_path / "test_shop.py").write_text(example)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\nfilterwarnings = error\n")
    code, output = run(tmp_path, "-o", "asyncio_default_fixture_loop_scope=function")
    assert (code, f"{example.count('def test_')} passed" in output) == (0, True), output


def test_the_clock_of_the_process_never_goes_back() -> None:
    """After a test that has moved the clock by an hour, the clock goes on from there."""
    clock, moved = ProcessClock(), ManualClock(time.monotonic())
    clock.use(moved)
    moved.advance(3600)
    assert clock() == moved.now
    clock.use(None)
    assert moved.now <= clock() < moved.now + 60


def busy(policy: Policy | AroundPolicy) -> Pipeline:
    """Return a pipeline whose policy has had calls of every outcome."""
    pipeline = Pipeline("busy", policy)
    failing = pipeline(failed)
    for _ in range(3):
        with contextlib.suppress(ConnectionError, RateLimitedError):
            pipeline.call(len, "abc")
        with contextlib.suppress(ConnectionError, RateLimitedError):
            failing()
    return pipeline


def failed() -> None:
    raise ConnectionError


MAKERS: list[Callable[[], Policy | AroundPolicy]] = [
    lambda: Bulkhead(1),
    lambda: Cache(ttl="1h", max_size=1),
    lambda: CircuitBreaker(fail_max=9),
    lambda: Fallback(value=1),
    lambda: Hedge(delay="1s"),
    lambda: RateLimit("2/hour"),
    lambda: Retry(attempts=2, on=ConnectionError, wait_initial=0, wait_jitter=0),
    SingleFlight,
    lambda: Timeout("5s"),
]


@pytest.mark.parametrize("make", MAKERS)
def test_a_reset_policy_has_the_figures_of_a_new_one(make: Callable[[], Policy | AroundPolicy]) -> None:
    """No count of a test is left for the next one."""
    used = busy(make())
    reset()
    assert used.snapshot() == Pipeline("busy", make()).snapshot()


def test_a_process_that_is_not_prepared_is_refused() -> None:
    """Without the plugin, the switches name the modules that have the real clock, and the line to write."""
    with pytest.raises(RuntimeError, match=r"resilience\.clock.*call resilience\.testing\.install\(\)"), manual_clock():
        pytest.fail("the clock of this process cannot be stopped")
    with pytest.raises(RuntimeError, match=r"call resilience\.testing\.install\(\)"):
        policies_off()


def test_an_installed_distribution_announces_the_plugin() -> None:
    """pytest finds the plugin by its entry point."""
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points.pytest11]\nresilience = "resilience.testing._pytest_plugin"' in text
