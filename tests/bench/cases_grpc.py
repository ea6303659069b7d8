"""gRPC servers with everything on, against the same servers without, on both stacks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import served_grpc
from harness import Case, Contender, Sample, Session, Unavailable, Unit

__all__ = ("CASES",)

_HOW = {
    "bare": "one unary method that returns its request",
    "resilience": (
        "the interceptors: request id, rate limit by address, at most 200 RPCs at once, a deadline of 10 s, one shape "
        "for errors"
    ),
    "resilience, defaults": "the interceptors with nothing configured: request id, one shape for errors",
}
_AT_ONCE = 16


def _served(stack: str, name: str) -> Callable[[Session], Sample]:
    """Start the server; time what its process takes for calls of which so many are always under way."""

    def build(session: Session) -> Sample:
        harness.peer("grpc", "grpcio")  # here, so that what is missing is said before a process starts
        served_grpc.interceptors(name, aio=stack == "aio")
        server = _Server(stack, name)
        session.stack.callback(server.close)
        return server.sample

    return build


class _Server:
    """One server process, and a client that keeps it busy."""

    def __init__(self, stack: str, name: str) -> None:
        arguments = [sys.executable, served_grpc.__file__, stack, name]
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        port = (self._process.stdout.readline() if self._process.stdout else "").strip()
        if not port.isdigit():
            self.close()
            raise Unavailable("the server did not start")
        self._channel = harness.peer("grpc", "grpcio").insecure_channel(f"127.0.0.1:{port}")
        self._read: Any = self._channel.unary_unary(served_grpc.METHOD)
        self._threads = Path(f"/proc/{self._process.pid}/task")

    def sample(self, number: int) -> float:
        """Make that many calls; nanoseconds each, of the server's CPU where the system tells, else elapsed."""
        begin = self._clock()
        calls = deque(self._read.future(b"order") for _ in range(_AT_ONCE))
        for _ in range(number):
            calls.popleft().result(10)
            calls.append(self._read.future(b"order"))
        for call in calls:
            call.result(10)
        return (self._clock() - begin) / (number + _AT_ONCE)

    def _clock(self) -> int:
        try:
            return sum(int(each.read_text().split()[0]) for each in self._threads.glob("*/schedstat"))
        except OSError:
            return time.perf_counter_ns()

    def close(self) -> None:
        """End the process by its own handle."""
        channel = getattr(self, "_channel", None)
        if channel is not None:
            channel.close()
        self._process.kill()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _case(stack: str, title: str, note: str, budget: float | None) -> Case:
    budgets = {"resilience": budget}
    contenders = [Contender(name, _served(stack, name), how, budgets.get(name)) for name, how in _HOW.items()]
    return Case(
        f"grpc-{stack}",
        title,
        contenders[0],
        contenders[1:],
        unit=Unit.SHARE,
        note=(
            f"Real processes on loopback, {_AT_ONCE} calls in flight on one channel. A figure is the CPU time of the "
            f"server's process for one call, so `a second` is the capacity of one core.{note}"
        ),
        smallest=500,  # the system accounts for CPU time in ticks of some milliseconds
        largest=500,
    )


CASES = (
    _case("aio", "A gRPC server on asyncio", "", 0.90),
    _case("sync", "A gRPC server on threads", " Four threads.", None),
)
