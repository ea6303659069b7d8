"""Ends a process of the demo when the demo ends, also after `kill -9` of the demo.

Each process holds a pipe from the demo. The operating system closes the pipe when the demo ends.
As a program, this module runs a command that does not watch such a pipe itself:
`python -m resilience_demo._parent_watch valkey-server ...`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

__all__ = ("end_with", "main")

GRACE = 2.0
"""Seconds within which a process must end after SIGTERM."""


def end_with(pipe: int, end: Callable[[], object], *, grace: float = GRACE) -> None:
    """Call `end` when the other side closes `pipe`. Exit this process `grace` seconds later if it still runs."""

    def watch() -> None:
        # Not `sys.stdin.buffer`: the interpreter aborts at its exit if a daemon thread holds the lock of that buffer.
        while os.read(pipe, 1024):
            pass
        killer = threading.Timer(grace, os._exit, (1,))
        killer.daemon = True
        killer.start()
        end()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def main(command: list[str]) -> int:
    """Run `command` and return its exit status. The end of standard input and SIGTERM terminate the command."""
    running: list[subprocess.Popen[bytes]] = []
    is_over = threading.Event()

    def end(*_: object) -> None:
        is_over.set()
        for process in running:
            process.terminate()

    signal.signal(signal.SIGTERM, end)  # before the start: a SIGTERM in between would leave the command running
    running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))  # noqa: S603 - the caller names the program
    if is_over.is_set():
        end()
    end_with(sys.stdin.fileno(), lambda: _stop(running[0]), grace=GRACE + 1)
    return running[0].wait()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
