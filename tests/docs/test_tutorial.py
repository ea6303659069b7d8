"""docs/tutorial.md: a reader who follows the page sees what the page shows."""

from __future__ import annotations

import doctest
import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from redis_process import free_port
from server_process import ServerProcess

pytestmark = [pytest.mark.servers, pytest.mark.once]

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
STEP = re.compile(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
RESET = "2s"
"""A test waits two seconds for a trial, and a reader ten."""


class Reader:
    """Follows the page from its first to its last block, in a folder, with servers on free ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {"9000": free_port(), "9001": free_port()}
        self.environment: dict[str, str] = {}
        self.servers: dict[str, ServerProcess] = {}
        self.log = ""
        self.steps = 0

    def local(self, text: str) -> str:
        for port, free in self.ports.items():
            text = text.replace(port, str(free))
        return text.replace('reset_timeout="10s"', f'reset_timeout="{RESET}"')

    def save(self, name: str, code: str) -> None:
        """Write a file. A server that runs is started again, as `--reload` does."""
        (self.folder / name).write_text(self.local(code))
        if name.removesuffix(".py") in self.servers:
            self.start(name.removesuffix(".py"), "9000")

    def start(self, name: str, port: str) -> None:
        """Start a server, in place of the one that runs."""
        if name in self.servers:
            self.servers.pop(name).kill()
        log = self.folder / f"{name}-{len(list(self.folder.iterdir()))}.txt"
        command = [sys.executable, "-m", "uvicorn", f"{name}:app", "--port", str(self.ports[port])]
        self.servers[name] = ServerProcess(command, self.folder, self.environment, self.ports[port], log)
        self.servers[name].says("Uvicorn running on")

    def shell(self, code: str) -> None:
        """Set the variables of a block, and start its servers."""
        self.environment |= dict(re.findall(r"^export (\w+)=(\S+)$", code, re.MULTILINE))
        for name, port in re.findall(r"^uvicorn (\w+):app --port (\d+)", code, re.MULTILINE):
            self.start(name, port)

    def console(self, code: str) -> None:
        """Make each request of a block, and compare the answer with the lines below the command."""
        for command, shown in STEP.findall(code):
            output = self.run(shlex.split(self.local(command)))
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(shown or "\n", output + "\n", flags), (command, shown, output)
            self.steps += 1

    def run(self, words: list[str]) -> str:
        """Do as `sleep` and `curl` do."""
        if words[0] == "sleep":
            time.sleep(float(RESET.removesuffix("s")))
            return ""
        assert words[:2] == ["curl", "-s"]
        method = words[words.index("-X") + 1] if "-X" in words else "GET"
        answer = httpx2.request(method, f"http://{words[-1]}", timeout=20)
        headers = [f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}"]
        headers += [f"{name}: {value}" for name, value in answer.headers.items()]
        return "\n".join([*headers, "", answer.text]) if "-i" in words else answer.text


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    found = Reader(tmp_path)
    yield found
    for server in found.servers.values():
        server.kill()


def test_a_reader_sees_what_the_page_shows(reader: Reader) -> None:
    """With the files and commands of the page, in its order, each answer and log line is that of the page."""
    for language, title, code in BLOCK.findall(PAGE):
        if language == "python":
            reader.save(title, code)
        elif language == "sh":
            reader.shell(code)
        elif language == "console":
            reader.console(code)
        else:
            logged = "".join(path.read_text() for path in reader.folder.glob("shop-*.txt"))
            masked = re.sub(r"[\d.]+", "0", logged)
            assert all(re.sub(r"[\d.]+", "0", line) in masked for line in code.splitlines()), logged
    assert reader.steps == PAGE.count("\n$ ") > 15
