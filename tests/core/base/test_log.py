"""Where the log of this toolkit goes."""

from __future__ import annotations

import subprocess
import sys

import pytest

HOOK = """
import logging
from resilience.toolkit import Resilience

{configured}
with Resilience() as toolkit:
    toolkit.lifecycle.on_stop(lambda: 1 / 0, name="flush")
    toolkit.lifecycle.stop()
logging.getLogger("resilience").info("nothing to read")
"""
TOLD = "stop hook 'flush' failed"


@pytest.mark.parametrize(
    "configured",
    [
        "",
        "logging.basicConfig()",
        "logging.getLogger('uvicorn.error').addHandler(logging.StreamHandler())",
    ],
    ids=["nothing", "everything", "a server's own loggers"],
)
def test_a_failure_is_read_once_whoever_configures_the_log(configured: str) -> None:
    """A warning or an error reaches standard error once, whether or not a service configures its log."""
    code = HOOK.format(configured=configured)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr.count(TOLD) == 1
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "nothing to read" not in done.stderr


def test_a_service_can_silence_the_log() -> None:
    """Whoever wants to hear nothing of this toolkit says so as for any other logger."""
    code = HOOK.format(configured="logging.getLogger('resilience').addHandler(logging.NullHandler())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
