"""A retry budget that instances share through Redis."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import budget_spender
import pytest
from fleet_instance import eventually
from ledgers import ModelLedger
from redis_process import RedisProcess, free_port

from resilience import Resilience, RetryBudget
from resilience.budget import _shared
from resilience.budget._lease_machine import LeaseRequest
from resilience.errors import ConfigurationError
from resilience.fleet import Fleet
from resilience.redis import RedisConnection

pytestmark = pytest.mark.redis


class Process:
    """A process that shares the budget."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen

    def order(self, order: str, number: int = 0) -> str:
        """Return the answer to an order."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(f"{order} {number}\n")
        return self.popen.stdout.readline().strip()

    def lease(self) -> int:
        """Return the lease; 0 without one."""
        return int(self.order("show").split()[0].replace("None", "0"))


@contextlib.contextmanager
def processes(url: str, number: int) -> Iterator[list[Process]]:
    """Yield processes that share the budget, with a valid lease each."""
    command = [sys.executable, str(Path(budget_spender.__file__)), url]
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(number):
            popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            stack.callback(popen.kill)
            made.append(Process(stack.enter_context(popen)))
        yield made


@pytest.mark.parametrize("server", ["redis_server", "oldest_redis_server"])
def test_the_script_is_the_model(server: str, request: pytest.FixtureRequest) -> None:
    """The ledger on a server answers each request as the ledger in memory, which the properties are proven for."""
    process: RedisProcess = request.getfixturevalue(server)
    model, chance = ModelLedger(), random.Random(7)
    sequences = dict.fromkeys("abcd", 0)
    with contextlib.closing(process.client()) as client:
        script = client.register_script(_shared._LEDGER.text)
        for _ in range(300):
            name = chance.choice("abcd")
            sequences[name] += chance.choice((1, 1, 1, 0))
            held = chance.randrange(6)
            asked = LeaseRequest(sequences[name], chance.randrange(40), held, held + chance.randrange(8))
            found = script(keys=["{b}:leases", "{b}:ends"], args=[name, *asked, 250_000, 3, 60_000])
            assert tuple(found) == model.lease(name, asked, 0.25, 3)
        assert client.pttl("{b}:leases") > 0
        assert client.pttl("{b}:ends") > 0


def test_a_dead_instance_returns_its_lease(redis_server: RedisProcess) -> None:
    """A record ends after its lifetime, and an evicted key starts the ledger anew."""
    with contextlib.closing(redis_server.client()) as client:
        script = client.register_script(_shared._LEDGER.text)

        def lease(name: str, sequence: int, lifetime: int) -> int:
            args: list[str | int] = [name, sequence, 0, 0, 4, 250_000, 4, lifetime]
            return int(script(keys=["{b}:leases", "{b}:ends"], args=args)[0])

        assert lease("dead", 1, 30) == 4
        assert lease("b", 1, 60_000) in {0, 4}
        time.sleep(0.05)  # at least
        assert lease("b", 2, 60_000) == 4
        assert lease("c", 1, 60_000) == 0
        client.delete("{b}:ends")
        assert lease("c", 2, 60_000) == 4


def test_a_shared_budget_has_a_name_and_a_connection() -> None:
    """Instances share the budgets of one name, on one Redis; a mistake is refused when the budget is made."""
    connection = RedisConnection.from_url(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(ConfigurationError, match="name=None: expected a name"):
        RetryBudget(shared=connection)
    with pytest.raises(ConfigurationError, match="shared='str': expected a RedisConnection"):
        RetryBudget("tests-typed", shared="redis://")  # type: ignore[arg-type]  # what the test is about
    assert RetryBudget("tests-two", shared=connection).options.shared
    with pytest.raises(ConfigurationError, match="which the budget was given before"):
        RetryBudget("tests-two", shared=RedisConnection.from_url("redis://127.0.0.1:1"))


def test_sharing_needs_redis() -> None:
    """The variable is refused without a URL, and names the one to set."""
    with pytest.raises(ConfigurationError, match=r"RESILIENCE_BUDGET__A__SHARED.*RESILIENCE_REDIS__URL"):
        Resilience.from_env({"RESILIENCE_BUDGET__A__SHARED": "true"})


def test_without_redis_the_budget_is_local(redis_server: RedisProcess) -> None:
    """Where nothing answers, the instance has the budget of one process, and no call waits for Redis."""
    connection = RedisConnection.from_url(f"redis://127.0.0.1:{free_port()}")
    budget = RetryBudget("tests-alone", ratio=0.5, minimum=2, shared=connection)
    for _ in range(10):
        budget.enter()
    assert [budget.spend(retrying=False) for _ in range(4)] == [True] * 3 + [False]
    assert budget.snapshot()["lease"] is None
    connection.close()


def test_a_pipeline_shares_its_budget_by_a_variable(redis_server: RedisProcess) -> None:
    """A retry that is configured alone leases its budget from Redis, and a healthy process asks for nothing."""
    environ = {
        "RESILIENCE_REDIS__URL": redis_server.url,
        "RESILIENCE_BUDGET__TESTS_ENV__SHARED": "true",
        "RESILIENCE_BUDGET__TESTS_ENV__MINIMUM": "2",
        "RESILIENCE_PIPELINE__ORDERS__RETRY__BUDGET": "tests-env",
        "RESILIENCE_PIPELINE__ORDERS__RETRY__WAIT_INITIAL": "0",
    }
    with Resilience.from_env(environ) as toolkit:
        pipeline = toolkit.pipeline("orders")
        assert pipeline.call(lambda: 1) == 1
        connection = toolkit.redis
        assert connection is not None
        assert not Fleet.of(connection).is_open
        budget = RetryBudget("tests-env")
        with pytest.raises(ConnectionError):
            pipeline.call(_fail)
        assert Fleet.of(connection).is_open
        eventually(lambda: budget.snapshot()["lease"] is not None)


def _fail() -> None:
    raise ConnectionError


@pytest.mark.realtime
def test_four_processes_share_one_budget(own_redis_server: RedisProcess) -> None:
    """Together they start no more retries than one budget allows; without Redis each has its share."""
    with processes(own_redis_server.url, 4) as (first, second, third, fourth):
        everyone = (first, second, third, fourth)
        for process in everyone:  # the first retry makes a process join
            process.order("enter", 10)
            assert process.order("spend", 1) == "1"
            assert process.order("end", 1) == "done"
            process.order("enter", 1)
        eventually(lambda: all(process.lease() for process in everyone), 20)
        # 40 calls: the fleet may have 10 retries in flight, and a process 2 for its own calls. The first process fails
        # alone, and borrows. The limit falls with each call that becomes a retry.
        started = 0

        def storm(process: Process, wanted: int) -> bool:
            nonlocal started
            started += int(process.order("spend", 5))
            assert started <= 10
            return started >= wanted

        eventually(lambda: storm(first, 3), 20)
        for process in everyone:
            storm(process, 0)
        assert started >= 8
        assert sum(process.lease() for process in everyone) <= 10
        own_redis_server.kill()
        # Without a lease, a process has a quarter of its calls at their first attempt: it has them in flight already.
        eventually(lambda: second.order("show").startswith("None"), 20)
        assert second.order("spend", 50) == "0"
        assert second.order("end", 2) == "done"
        assert second.order("enter", 2) == "done"
        assert second.order("spend", 50) == "2"


def test_an_instance_that_closes_returns_its_lease(redis_server: RedisProcess) -> None:
    """The lease is free for the others at once, apart from the attempts in flight."""
    connection = RedisConnection.from_url(redis_server.url)
    budget = RetryBudget("closing", minimum=4, shared=connection)
    budget.enter()
    assert budget.spend(retrying=False)
    for _ in range(2):
        eventually(budget.spend_extra)
    with contextlib.closing(redis_server.client()) as client:
        eventually(lambda: client.hget("{resilience:fleet:budget:closing}:leases", "leased") == b"3")
        budget.release_extra()
        budget.release_extra()
        connection.close()
        eventually(lambda: client.hget("{resilience:fleet:budget:closing}:leases", "leased") == b"1")
    assert budget.snapshot()["lease"] is None
