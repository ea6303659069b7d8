"""A process that is one more instance of a fleet, until its standard input ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from resilience.fleet import Fleet, FleetCall
from resilience.redis import RedisConnection

__all__ = ("Partner", "eventually", "instance", "talk")


def eventually(fact: Callable[[], object], seconds: float = 10) -> None:
    """Wait until `fact` is true."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Partner:
    """A partner that keeps what it gets."""

    def __init__(self, *calls: FleetCall) -> None:
        self.wanted = calls
        self.replies: list[Sequence[object]] = []
        self.failures = 0
        self.messages: list[bytes] = []

    def calls(self) -> Sequence[FleetCall]:
        """Return the calls that the test wants."""
        return self.wanted

    def answered(self, replies: Sequence[object]) -> None:
        """Keep the replies."""
        self.replies.append(replies)

    def unreachable(self) -> None:
        """Count the round."""
        self.failures += 1

    def leaving(self) -> Sequence[FleetCall]:
        """Give back nothing."""
        return ()

    def heard(self, message: bytes) -> None:
        """Keep the message."""
        self.messages.append(message)


@contextmanager
def instance(url: str, lifetime: float) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that has joined the fleet of `url`, with another lifetime; kill it at the end."""
    command = [sys.executable, __file__, url, str(lifetime)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"joined\n"
            yield process
        finally:
            process.kill()


def talk(url: str) -> None:
    """Publish until the message comes back, and say so."""
    fleet, partner = Fleet.of(RedisConnection.from_url(url)), Partner()
    fleet.join(partner, "talk")
    while not partner.messages:
        fleet.publish("talk", b"x")
        fleet.nudge()
        time.sleep(0.02)
    fleet.close()
    sys.stdout.write("heard\n")


def main(url: str, lifetime: float) -> None:
    """Join, and say so after the first answer."""
    from resilience.fleet import _machine  # noqa: PLC0415 - the process's own

    _machine.LIFETIME = lifetime  # type: ignore[misc]  # final for all but this process
    fleet, partner = Fleet.of(RedisConnection.from_url(url)), Partner()
    fleet.join(partner)
    while not partner.replies:
        fleet.nudge()
    sys.stdout.write("joined\n")
    sys.stdout.flush()
    sys.stdin.read()
    fleet.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
