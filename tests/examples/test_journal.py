"""The example services borrow connections to the journal, a process that is killed and started again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from example_modules import EXAMPLES, load
from shop_chain import free_port

pytestmark = pytest.mark.servers

PATIENCE = 20.0


class JournalProcess:
    """The journal on a port of its own, which stays the same over a restart."""

    def __init__(self, folder: Path) -> None:
        self.address, self.file = f"127.0.0.1:{free_port()}", folder / "journal.txt"
        self.start()

    def start(self) -> None:
        environ = {"JOURNAL_ADDRESS": self.address, "JOURNAL_FILE": str(self.file)}
        self.process = subprocess.Popen([sys.executable, str(EXAMPLES / "journal.py")], env=environ)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    @property
    def lines(self) -> list[str]:
        return self.file.read_text().splitlines()


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JournalProcess]:
    """Start the journal, and let the services know its address."""
    process = JournalProcess(tmp_path)
    monkeypatch.setenv("SHOP_JOURNAL", process.address)
    monkeypatch.setenv("RESILIENCE_POOL__JOURNAL__CONNECTION_TIMEOUT", "20s")  # for a busy machine
    try:
        yield process
    finally:
        process.kill()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("name", "service"), [("grpc_shop", "stock"), ("flask_shop", "warehouse")])
def test_a_thread_waits_until_the_journal_is_back(journal: JournalProcess, name: str, service: str) -> None:
    """An entry during the outage waits, and is written once the journal is back: the pool has made new connections."""
    module: Any = load(name)
    module.note("1")
    journal.kill()
    with ThreadPoolExecutor(1) as caller:
        noting = caller.submit(module.note, "2")
        until(lambda: module.journal.snapshot()["connect_failures"])
        journal.start()
        noting.result(PATIENCE)
    assert journal.lines == [f"1 {service}", f"2 {service}"]
    assert module.journal.snapshot()["created"] == 2
    module.toolkit.close()


async def test_a_task_waits_until_the_journal_is_back(journal: JournalProcess) -> None:
    """The same in an event loop."""
    module: Any = load("fastapi_shop")
    await module.note("1")
    journal.kill()
    noting = asyncio.create_task(module.note("2"))
    async with asyncio.timeout(PATIENCE):
        while not module.journal.snapshot()["connect_failures"]:
            await asyncio.sleep(0.01)
        journal.start()
        await noting
    assert journal.lines == ["1 shop", "2 shop"]
    await module.toolkit.aclose()


def test_without_an_address_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The services run without a journal, and connect to none."""
    monkeypatch.delenv("SHOP_JOURNAL", raising=False)
    for name in ("grpc_shop", "flask_shop"):
        module: Any = load(name)
        module.note("1")
        assert module.journal.snapshot()["total"] == 0
