"""The pytest plugin `resilience`: a fixture for each switch of `resilience.testing`, and a reset after each test.

pytest loads it by its entry point. `-p no:resilience` leaves it out. The option `resilience_reset = false` in the
configuration of pytest leaves out the reset.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from resilience.testing._install import install
from resilience.testing._manual_clock import ManualClock, manual_clock
from resilience.testing._recording import RecordingListener, record_events

_RESET = "resilience_reset"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that leaves out the reset."""
    parser.addini(_RESET, "give every policy of the process the state of a new one after each test", "bool", True)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Install the clock and the switch, before a conftest file imports the policies of the service."""
    install()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Reset all policies, after the fixtures of the test have ended."""
    try:
        yield
    finally:
        if item.config.getini(_RESET):
            from resilience.testing._process_switches import reset  # noqa: PLC0415 - it imports policies

            reset()


@pytest.fixture
def resilience_clock() -> Generator[ManualClock, None, None]:
    """Stop the time of all policies during the test. See `resilience.testing.manual_clock`."""
    with manual_clock() as clock:
        yield clock


@pytest.fixture
def resilience_no_waits() -> Generator[None, None, None]:
    """Skip the waits of all retries during the test. See `resilience.testing.no_waits`."""
    from resilience.testing._process_switches import no_waits  # noqa: PLC0415 - it imports policies

    with no_waits():
        yield


@pytest.fixture
def resilience_off() -> Generator[None, None, None]:
    """Let all calls pass through all policies during the test. See `resilience.testing.policies_off`."""
    from resilience.testing._process_switches import policies_off  # noqa: PLC0415 - it imports policies

    with policies_off():
        yield


@pytest.fixture
def resilience_events() -> Generator[RecordingListener, None, None]:
    """Record the events of all policies during the test. See `resilience.testing.record_events`."""
    with record_events() as events:
        yield events
