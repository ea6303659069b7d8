"""Run the tests on a machine that stands still again and again, and show which of them mistake that for a failure.

    python tests/standstill.py [--seconds 0.6] [--every 2.5] [PYTEST ARGUMENT ...]

Every process below pytest, servers included, is stopped for a moment, as a virtual machine is whose host has no time
for it. A test that fails here fails one day for nothing: give it room, or mark it `realtime`.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from collections.abc import Iterator

import psutil


@contextlib.contextmanager
def stopped(root: psutil.Process) -> Iterator[None]:
    """Stop a process and all below it, but for those whom a test has stopped: they stay as they are."""
    held = []
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_STOPPED:
                process.suspend()
                held.append(process)
    try:
        yield
    finally:
        for process in reversed(held):
            with contextlib.suppress(psutil.Error):
                process.resume()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.6, help="how long everything stands still")
    parser.add_argument("--every", type=float, default=2.5, help="seconds between two stops, on average")
    options, arguments = parser.parse_known_args()
    tests = psutil.Popen([sys.executable, "-m", "pytest", "-n", "3", "--dist", "worksteal", *arguments])
    while tests.poll() is None:
        time.sleep(random.uniform(0.5, 1.5) * options.every)
        with contextlib.suppress(psutil.NoSuchProcess), stopped(tests):
            time.sleep(options.seconds)
    return int(tests.returncode)


if __name__ == "__main__":
    sys.exit(main())
