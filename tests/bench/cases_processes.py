"""How many decisions a second several processes get from one Redis, on one key and on many."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import harness
import samples
from harness import Case, Contender, Sample, Session, Unavailable, Unit

__all__ = ("CASES",)

_SCRIPT = str(Path(__file__).with_name("deciders.py"))
_NUMBERS = (1, 2, 4, 8)
_DECISIONS = 16_000
"""Of all processes together, in one sample."""


class Deciders:
    """Processes that make decisions at the same time."""

    def __init__(self, number: int, url: str, keys: int, tasks: int = 64) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, _SCRIPT, url, str(keys), str(tasks)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(number)
        ]

    def decide(self, number: int) -> tuple[float, float]:
        """Make that many decisions each; returns the nanoseconds that all took, and their CPU time."""
        begin = time.perf_counter_ns()
        for process in self._processes:
            print(number, file=process.stdin, flush=True)
        cpu = sum(int(process.stdout.readline() or 0) if process.stdout else 0 for process in self._processes)
        if not cpu:
            raise Unavailable("the processes did not start")
        return time.perf_counter_ns() - begin, cpu

    def close(self) -> None:
        """End the processes: they end with their input."""
        for process in self._processes:
            if process.stdin:
                process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
            if process.stdout:
                process.stdout.close()


def _deciding(name: str, processes: int, keys: int) -> Callable[[Session], Sample]:
    def build(session: Session) -> Sample:
        server = harness.peer("redis").Redis.from_url(session.redis_url, socket_timeout=5)
        session.stack.callback(server.close)
        deciders = Deciders(processes, session.redis_url, keys)
        session.stack.callback(deciders.close)
        deciders.decide(64)  # connected

        def sample(number: int) -> float:
            each = max(1, number // processes)
            before = samples.commands(server)
            elapsed, cpu = deciders.decide(each)
            made = each * processes
            session.beside[name] = samples.account(cpu / made, (samples.commands(server) - before) / made)
            return elapsed / made

        return sample

    return build


def _case(key: str, title: str, keys: int) -> Case:
    names = [f"{number} process{'es' if number > 1 else ''}" for number in _NUMBERS]
    first, *others = [
        Contender(name, _deciding(name, number, keys)) for name, number in zip(names, _NUMBERS, strict=True)
    ]
    return Case(
        key,
        title,
        first,
        others,
        unit=Unit.SHARE,
        note=(
            "64 tasks in each process, in elapsed time. `of bare` is the throughput of all processes, of that of one. "
            "The client needs more CPU time than the server, so processes help as far as there are cores for them: the "
            "first line of this page gives the number of cores, and Redis needs one of them."
        ),
        smallest=_DECISIONS,
        largest=_DECISIONS,
    )


CASES = (
    _case("redis-processes", "Several processes on one Redis, one key", 1),
    _case("redis-processes-keys", "Several processes on one Redis, 64 keys", 64),
)
