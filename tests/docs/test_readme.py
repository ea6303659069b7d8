import asyncio
import contextlib
import itertools
import re
import shlex
import socket
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from resilience import ConfigurationError, Resilience
from resilience.config import ConfigurationWarning
from resilience.config._schema import POLICIES
from resilience.retry import Retry

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """What CI runs is what the README tells a stranger to run."""
    command = next(line for line in README.splitlines() if line.endswith(".venv/bin/tox"))
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_a_source_distribution_can_be_tested_too() -> None:
    """Unpacked, it takes the README's test command: all that tox and the tests read is in it."""
    sdist = pytest.importorskip("hatchling.builders.sdist", reason="hatchling is not installed")
    held = {file.distribution_path for file in sdist.SdistBuilder(str(ROOT)).recurse_included_files()}
    assert {"tox.ini", "toxfile.py", ".ci/run", "tests/docs/test_readme.py", "docs/index.md"} <= held


async def test_one_line_of_middleware_does_what_it_says() -> None:
    """The first example gives an app its probes and its error envelope."""
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "install(app)" in block)
    namespace: dict[str, object] = {}
    exec(code, namespace)  # noqa: S102 - the README's own example
    app = namespace["app"]
    assert isinstance(app, FastAPI)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/livez")).status_code == 200
        missing = await client.get("/nowhere")
    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")
    assert missing.headers["x-request-id"] == missing.json()["request_id"]


def second_example() -> str:
    """Return the code of the example that decorates outbound calls."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return next(block for block in blocks if "payments = " in block)


class Bank:
    """A server that drops its first connection, leaves the second one without an answer, and answers the others."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            for number in itertools.count(1):
                connection, _ = self._listener.accept()
                self._open.append(connection)
                connection.recv(4096)
                if number == 1:
                    connection.close()
                elif number > 2:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n12.50")

    def close(self) -> None:
        """Stop, and break every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for connection in self._open:
            connection.close()


@pytest.fixture
def bank() -> Iterator[Bank]:
    server = Bank()
    yield server
    server.close()


@pytest.mark.realtime
def test_the_first_pipeline_repeats_errors_and_timeouts(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first pipeline repeats an error of the HTTP client and an attempt that timed out, and prints both."""
    monkeypatch.setenv("BANK_URL", bank.url)
    namespace: dict[str, Any] = {}
    exec(second_example(), namespace)  # noqa: S102 - the README's own example
    dropped, elapsed, late, answer = capsys.readouterr().out.splitlines()
    assert dropped.startswith("<Event retry.scheduled policy='payments.retry' #1, attempt=1")
    assert "RemoteProtocolError" in dropped
    assert elapsed.startswith("<Event timeout.elapsed policy='payments.timeout' #1, seconds=0.8")
    assert late.startswith("<Event retry.scheduled policy='payments.retry' #2, attempt=2")
    assert answer == "12.50"
    assert asyncio.run(namespace["rate"]("EUR")) == "12.50"


def test_variables_of_the_readme_are_understood() -> None:
    """The variables of the third example configure the pipeline they name."""
    resilience = Resilience.from_env(exports())
    policies = {type(policy).__name__: policy for policy in resilience.pipeline("payments").policies}
    retry = policies["Retry"]
    assert isinstance(retry, Retry)
    assert retry.options.attempts == 4
    assert "Timeout" in policies
    resilience.close()


def exports() -> dict[str, str]:
    """Return the variables of the third example."""
    return dict(shlex.split(line)[1].split("=", 1) for line in README.splitlines() if line.startswith("export "))


def test_every_policy_but_those_of_functions_has_variables() -> None:
    """Of the policies that have a name as a plugin, `Fallback` alone cannot be configured by text."""
    built_in = set(PROJECT["entry-points"]["resilience.policies"].values())
    configured = {known.constructor for known in POLICIES}
    assert {path.rpartition(":")[2] for path in built_in} - {made.__name__ for made in configured} == {"Fallback"}


def test_wrong_values_stop_the_start_together() -> None:
    """Two values that are wrong are one error, which names both variables."""
    wrong = {name: "x" for name in exports() if name.endswith(("SECONDS", "ATTEMPTS"))}
    with pytest.raises(ConfigurationError) as caught:
        Resilience.from_env({**exports(), **wrong})
    assert len(wrong) == 2
    assert all(name in str(caught.value) for name in wrong)


def test_a_misspelled_name_is_a_warning_or_an_error() -> None:
    """A variable that nothing reads is warned about, and refused with RESILIENCE_STRICT=true."""
    misspelled = {"RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATEMPTS": "4"}
    with pytest.warns(ConfigurationWarning, match="ATTEMPTS"):
        Resilience.from_env(misspelled).close()
    with pytest.raises(ConfigurationError, match="ATTEMPTS"):
        Resilience.from_env({**misspelled, "RESILIENCE_STRICT": "true"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_extras_exist(page: Path) -> None:
    """Whatever a page tells to install, every extra is one of the distribution."""
    lines = [line for line in page.read_text().splitlines() if "pip install" in line]
    named = re.findall(r"(?:resilience-plugins|'\.)\[([\w,]+)\]", "\n".join(lines))
    assert {extra for names in named for extra in names.split(",")} <= set(PROJECT["optional-dependencies"])


def test_the_readme_names_extras_that_exist() -> None:
    """The extras it lists in words exist, too."""
    (sentence,) = re.findall(r"^Or (.+?), in any combination: `\[([\w,]+)\]`", README, re.MULTILINE)
    named = re.findall(r"`(\w+)`", sentence[0]) + sentence[1].split(",")
    assert len(named) >= 8
    assert set(named) <= set(PROJECT["optional-dependencies"])
