"""A process that is one instance of a service with a shared breaker. It does what its standard input says."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from resilience import CircuitBreaker, Pipeline
from resilience.errors import RejectedError
from resilience.events import Event
from resilience.redis import RedisConnection

__all__ = ("BreakerInstance", "eventually", "instances")


def eventually(fact: Any, seconds: float = 10) -> None:
    """Wait until `fact()` is true."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.005)


class BreakerInstance:
    """The process, as a test sees it: what it has said so far."""

    def __init__(self, url: str, quorum: str, *options: str) -> None:
        command = [sys.executable, __file__, url, quorum, *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.events: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self._sent = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = json.loads(line)
            (self.events if "kind" in found else self.answers).append(found)

    def do(self, *commands: str) -> None:
        """Send commands, each of which has one answer."""
        self._sent += len(commands)
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{each}\n" for each in commands))
        self.process.stdin.flush()

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command and return its answer."""
        self.do(command)
        number = self._sent
        eventually(lambda: len(self.answers) >= number)
        return self.answers[number - 1]

    def time_of(self, kind: str) -> float | None:
        """Return when the last event of this kind happened, None if there is none."""
        return next((each["at"] for each in reversed(self.events) if each["kind"] == kind), None)

    @property
    def state(self) -> dict[str, Any]:
        """The snapshot of the breaker."""
        return self.ask("state")

    def kill(self) -> None:
        """End the process as kill -9 does."""
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


@contextmanager
def instances(url: str, count: int, quorum: str = "0.5", *options: str) -> Iterator[list[BreakerInstance]]:
    """Yield processes, each of which counts all of them."""
    with ExitStack() as stack:
        found = [BreakerInstance(url, quorum, *options) for _ in range(count)]
        for each in found:
            stack.callback(each.kill)
            each.do("call")
        for each in found:
            eventually(lambda each=each: each.state["fleet"]["instances"] >= count)
        yield found


def main(url: str, quorum: str, reset_timeout: str = "30") -> None:
    """Do what the standard input says."""
    breaker = CircuitBreaker(
        failure_rate_threshold=0.5,
        minimum_calls=10,
        reset_timeout=reset_timeout,
        reset_timeout_jitter=0,
        success_threshold=2,
        shared=RedisConnection.from_url(url),
        quorum=float(quorum) if "." in quorum else int(quorum),
    )
    pipeline = Pipeline("payments", breaker)

    def fail() -> None:
        raise ConnectionError

    def say(**found: Any) -> None:
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()

    def report(event: Event) -> None:
        if event.kind != "breaker.rejected":
            say(kind=event.kind, at=time.time(), facts={k: str(v) for k, v in event.facts.items()})

    breaker.events.subscribe(report)
    for line in sys.stdin:
        command, _, number = line.strip().partition(" ")
        if command == "state":
            say(**breaker.snapshot())
            continue
        function = fail if command == "fail" else str
        say(outcome=[outcome_of(pipeline, function) for _ in range(int(number or 1))][-1])


def outcome_of(pipeline: Pipeline, function: Callable[[], object]) -> str:
    """Make one call and return the class of its error, or "ok"."""
    try:
        pipeline.call(function)
    except (ConnectionError, RejectedError) as error:
        return type(error).__name__
    return "ok"


if __name__ == "__main__":
    main(*sys.argv[1:])
