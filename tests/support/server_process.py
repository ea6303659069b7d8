"""A real process that serves or works, told what to do by signals, and asked by HTTP."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ("ServerProcess", "started")


class ServerProcess:
    """One process of ours, ended by its own handle, whose output is kept."""

    def __init__(
        self, arguments: list[str], directory: Path, environment: dict[str, str], port: int, log: Path | None = None
    ) -> None:
        self.port = port
        self._log = log or directory / "output.txt"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                arguments,
                cwd=directory,
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def output(self) -> str:
        """Everything it has printed so far."""
        return self._log.read_text(errors="replace")

    def says(self, text: str, within: float = 15) -> None:
        """Wait until it has printed `text`."""
        end = time.monotonic() + within
        while text not in self.output:
            assert time.monotonic() < end, f"no {text!r} in:\n{self.output}"
            assert self._process.poll() is None or text in self.output, self.output
            time.sleep(0.01)

    def tell(self, number: int = signal.SIGTERM) -> float:
        """Send a signal, and return when."""
        os.kill(self.pid, number)
        return time.monotonic()

    def tell_all(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to it and to all that it started."""
        os.killpg(self.pid, number)

    @property
    def is_running(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def ended(self, within: float = 15) -> int:
        """Wait for its end, and return its exit status."""
        return self._process.wait(within)

    def ask(self, path: str, timeout: float = 10) -> tuple[int, str]:
        """Return status and body of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def asking(self, path: str) -> tuple[threading.Thread, list[object]]:
        """Ask in a thread; the list gets the answer, or the error."""
        answers: list[object] = []

        def ask() -> None:
            try:
                answers.append(self.ask(path))
            except Exception as error:  # noqa: BLE001 - what a client saw is the result
                answers.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        return thread, answers

    def answers(self, path: str, status: int, within: float = 15) -> None:
        """Wait until `path` is answered with `status`."""
        end = time.monotonic() + within
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask(path, 2)[0] == status:
                    return
            assert time.monotonic() < end, self.output
            time.sleep(0.02)

    def kill(self) -> None:
        """End it and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)


@contextlib.contextmanager
def started(
    directory: Path, source: str, arguments: list[str], *, port: int = 0, environment: dict[str, str] | None = None
) -> Iterator[ServerProcess]:
    """Run `python <arguments>` where `app.py` holds `source`, and end it whatever happens."""
    (directory / "app.py").write_text(textwrap.dedent(source))
    process = ServerProcess([sys.executable, *arguments], directory, environment or {}, port)
    try:
        yield process
    finally:
        process.kill()
