"""No process of the demo outlives it, not even after `kill -9`: each one holds a pipe and ends when the pipe closes.

As a program it runs another one that knows nothing of this: `python -m resilience_demo._leash valkey-server ...`.
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
"""Seconds a process gets to end in good order."""


def end_with(pipe: int, end: Callable[[], object], *, grace: float = GRACE) -> None:
    """Call `end` when the other side of `pipe` is gone, and end this process for good `grace` seconds later."""

    def watch() -> None:
        # Not through `sys.stdin.buffer`: the lock of a reader still at it aborts the interpreter at its regular end.
        while os.read(pipe, 1024):
            pass
        killer = threading.Timer(grace, os._exit, (1,))
        killer.daemon = True
        killer.start()
        end()

    threading.Thread(target=watch, name="leash", daemon=True).start()


def main(command: list[str]) -> int:
    """Run `command` until it ends, or standard input does, or a SIGTERM asks for it; return its exit status."""
    running: list[subprocess.Popen[bytes]] = []
    is_over = threading.Event()

    def end(*_: object) -> None:
        is_over.set()
        for process in running:
            process.terminate()

    signal.signal(signal.SIGTERM, end)  # first: nobody else would end a command started before it
    running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))  # noqa: S603 - our caller names the program
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
