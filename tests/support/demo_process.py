"""The demo as a process, and what is left of its servers."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ("PATIENCE", "PID", "alive", "demo", "gone", "read_until")

ROOT = Path(__file__).parents[2]
PID = re.compile(r"\(pid (\d+)\)")
PATIENCE = 60.0


@contextlib.contextmanager
def demo(
    *arguments: str, without: tuple[str, ...] = ("RESILIENCE_",), **settings: str
) -> Iterator[subprocess.Popen[str]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(without)} | settings
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "resilience", "demo", *arguments],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE)


def read_until(process: subprocess.Popen[str], words: str) -> list[int]:
    """Read the demo's lines until one has `words`, and return the pids of its servers."""
    assert process.stdout is not None
    pids: list[int] = []
    for line in process.stdout:
        pids += [int(pid) for pid in PID.findall(line)]
        if words in line:
            return pids
    raise AssertionError(f"the demo ended before it said {words!r}")


def alive(groups: list[int]) -> list[str]:
    """Return the processes of these groups; one that has ended and was not collected yet is none."""
    command = ["/bin/ps", "-eo", "pgid=,stat=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    found = (line.split(None, 2) for line in listed.stdout.splitlines())
    return [" ".join(fields) for fields in found if int(fields[0]) in groups and not fields[1].startswith("Z")]


def gone(groups: list[int], within: float) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not alive(groups):
            return True
        time.sleep(0.05)
    return False
