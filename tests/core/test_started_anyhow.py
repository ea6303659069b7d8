"""The tests pass however they are started: in the background, under `nohup`, by a CI runner, without a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from foreground import SENT

ROOT = Path(__file__).parents[2]

SHOW = """
import json, signal, sys
numbers = [int(each) for each in sys.argv[1:]]
ignored = [each for each in numbers if signal.getsignal(each) is signal.SIG_IGN]
blocked = [each for each in numbers if each in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
print(json.dumps([ignored, blocked]))
"""

START = """
import os, signal, sys
for each in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1):
    signal.signal(each, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD])
os.setsid()
os.close(0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Runs Python as a supervisor does that ignores or blocks signals and has neither terminal nor input."""

NEEDS_SIGNALS = (
    "tests/core/test_started_anyhow.py::test_a_process_that_a_test_starts_takes_its_signals",
    "tests/core/hedge/test_hedge.py::test_an_interrupted_caller_leaves_the_place_to_its_threads",
    "tests/core/lifecycle/test_signals.py::TestScripts::test_works_to_the_end",
)


def test_a_process_that_a_test_starts_takes_its_signals() -> None:
    """No signal that tests send is ignored or blocked in a process that a test starts."""
    numbers = [str(int(number)) for number in SENT]
    shown = subprocess.run([sys.executable, "-c", SHOW, *numbers], capture_output=True, text=True, check=True)

    assert json.loads(shown.stdout) == [[], []]


@pytest.mark.once
@pytest.mark.realtime
def test_tests_of_signals_pass_where_signals_are_ignored() -> None:
    """With signals ignored and blocked, no terminal, no input, no home and no locale, tests of signals pass."""
    bare = {name: text for name, text in os.environ.items() if not name.startswith(("COV", "PYTEST_", "LANG", "LC_"))}
    bare = {**bare, "TERM": "dumb", "TZ": "Asia/Kolkata"}
    bare.pop("HOME", None)
    arguments = [sys.executable, "-c", START, "-m", "pytest", "-q", "-p", "no:cacheprovider", *NEEDS_SIGNALS]
    ended = subprocess.run(arguments, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
