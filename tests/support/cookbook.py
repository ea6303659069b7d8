"""A page of docs/cookbook as its test runs it: the files of an application, its variables, its commands, its output."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from http_upstreams import serving
from redis_process import free_port
from server_process import ServerProcess

__all__ = ("FOLDER", "LONGEST_MAIN_FILE", "Dependency", "Recipe")

FOLDER = Path(__file__).parents[2] / "docs" / "cookbook"
LONGEST_MAIN_FILE = 40

_BLOCK = re.compile(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)
_SHELL = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_EXPORT = re.compile(r"^export (\w+)=(\S+)", re.MULTILINE)
_PUBLIC = re.compile(r"\b0\.0\.0\.0\b")
_VARIES = re.compile(r"\b[0-9a-f]{8}(?:-?[0-9a-f]{4,})+\b|\d+(?:\.\d+)?")
"""Ids and numbers: a process id, a time, a port, the seconds until the next trial."""


def _local(text: str, port: int) -> str:
    return _PUBLIC.sub("127.0.0.1", text.replace("8000", str(port)))


class Recipe:
    """One page.

    - A block with a title and a language of programs is a file of the application.
    - A block `text` with a title is output. Its lines must be in the real output, in this order.
    - A block `sh` has the variables and the commands.
    """

    def __init__(self, name: str) -> None:
        self.text = (FOLDER / f"{name}.md").read_text()
        blocks = _BLOCK.findall(self.text)
        self.files = {title: code for language, title, code in blocks if language != "text"}
        self.outputs = {title: code for language, title, code in blocks if language == "text"}
        self._shell = "\n".join(_SHELL.findall(self.text))

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the page exports."""
        return dict(_EXPORT.findall(self._shell))

    def write(self, directory: Path, port: int) -> Path:
        """Write all files of the application into a folder, for loopback and a free port."""
        for name, code in self.files.items():
            (directory / name).write_text(_local(code, port))
        return directory

    def command(self, start: str, port: int) -> list[str]:
        """Return the command of the page that begins with `start`, on this Python, loopback and a free port."""
        (line,) = [line for line in self._shell.splitlines() if line.startswith(start)]
        program, *arguments = shlex.split(_local(line, port))
        return [sys.executable, *(() if program == "python" else ("-m", program)), *arguments]

    @contextlib.contextmanager
    def started(self, start: str, directory: Path, **changed: str) -> Iterator[ServerProcess]:
        """Run a command of the page in a folder with its files and variables, some of them `changed`."""
        port = free_port()
        environment = {**self.environment, **changed}
        log = directory / f"output-{port}.txt"
        process = ServerProcess(self.command(start, port), self.write(directory, port), environment, port, log)
        try:
            yield process
        finally:
            process.kill()

    def load(self, name: str, directory: Path) -> dict[str, Any]:
        """Run a file of the application in this process, and return its names. The test sets the variables."""
        path = self.write(directory, 0) / name
        namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
        exec(compile(path.read_text(), path, "exec"), namespace)  # noqa: S102 - the page's own file
        return namespace

    def shows(self, title: str, output: str) -> None:
        """Assert that the lines of an output on the page are in the real output, in this order."""
        rest = iter([_VARIES.sub("0", line.strip()) for line in output.splitlines()])
        for line in self.outputs[title].splitlines():
            wanted = _VARIES.sub("0", line.strip())
            assert any(wanted == found for found in rest), f"{line!r} is not, or not in this order, in:\n{output}"


class Dependency:
    """A service on loopback that answers each request with `status`, `headers` and `body`.

    It answers after `delay` seconds, and not while `is_holding`.
    """

    def __init__(self) -> None:
        self.status, self.headers, self.body, self.delay = 200, dict[str, str](), b'{"ok": true}', 0.0
        self.is_holding = False
        self.seen: list[tuple[str, dict[str, str]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        self.seen.append((f"{scope['method']} {scope['path']}", headers))
        while (await receive()).get("more_body"):
            pass
        await asyncio.sleep(self.delay)
        while self.is_holding:
            await asyncio.sleep(0.01)
        named = {"content-type": "application/json", "content-length": str(len(self.body)), **self.headers}
        sent = [(name.encode(), value.encode()) for name, value in named.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": sent})
        await send({"type": "http.response.body", "body": self.body})

    @classmethod
    @contextlib.contextmanager
    def served(cls) -> Iterator[tuple[Dependency, str]]:
        """Serve a new one, and yield it with its URL."""
        dependency = cls()
        with serving(dependency) as url:
            yield dependency, url
