"""The pages on pools of databases: their code runs, and their tables name each argument."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres_process import PostgresServer
from sqlalchemy.pool import QueuePool

from resilience_sql import ResiliencePool

pytestmark = pytest.mark.once

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
_OTHERS = {"self", "creator", "arguments"}
_OF_ENGINE = {
    "timeout": "pool_timeout",
    "recycle": "pool_recycle",
    "use_lifo": "pool_use_lifo",
    "pre_ping": "pool_pre_ping",
}


@pytest.mark.servers
def test_the_example_on_psycopg_runs(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of the page books into a real PostgreSQL, and commits."""
    monkeypatch.setenv("DATABASE_URL", postgres.conninfo)
    found = re.search(r'```python title="ledger\.py"\n(.*?)```', (HOWTO / "pool-psycopg.md").read_text(), re.DOTALL)
    assert found is not None
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        connection.execute("create table if not exists bookings (account text, cents bigint)")
        connection.execute("truncate bookings")
    ledger: dict[str, Any] = {}
    exec(compile(found[1], "ledger.py", "exec"), ledger)  # noqa: S102 - it is our page
    try:
        assert [ledger["book"]("a", 5), ledger["book"]("a", 7)] == [5, 12]
    finally:
        ledger["pool"].close()


def test_the_page_on_sqlalchemy_names_each_argument() -> None:
    """All arguments of `ResiliencePool` are in the table, and all those of `QueuePool`."""
    table = (HOWTO / "pool-sqlalchemy.md").read_text().partition("## Move from")[2]
    names = set(inspect.signature(ResiliencePool.__init__).parameters) - _OTHERS
    names |= set(inspect.signature(QueuePool.__init__).parameters) - _OTHERS - {"kw"}
    missing = {name for name in names if f"`{_OF_ENGINE.get(name, name)}`" not in table}
    assert missing == set()
