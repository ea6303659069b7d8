"""The line of `doctor` about Redis."""

from __future__ import annotations

import contextlib
import re

import pytest
from redis_groups import RedisCluster
from redis_process import RedisProcess

from resilience import __main__ as command_line

pytestmark = pytest.mark.redis


@pytest.mark.parametrize(
    ("outage", "effect"),
    [
        ("local", "each process would decide alone, by its share of each limit"),
        ("allow", "every call would pass"),
        ("deny", "every call of a limiter on Redis would be refused"),
    ],
)
def test_facts_for_an_operator(
    outage: str,
    effect: str,
    redis_server: RedisProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Doctor names version, latency, clock, live instances, and what an outage would do with the present options."""
    monkeypatch.setenv("RESILIENCE_REDIS__URL", redis_server.url)
    monkeypatch.setenv("RESILIENCE_REDIS__TIMEOUT", "2s")
    monkeypatch.setenv("RESILIENCE_REDIS__OUTAGE", outage)
    command_line.main(["doctor"])
    text = capsys.readouterr().out
    assert re.search(r"(Redis|Valkey) \d+\.\d+\.\d+, PING \d+\.\d ms \(median of 5\)", text)
    assert re.search(r"its clock is \d+ ms (ahead of|behind) that of this machine", text)
    assert "0 live instances of the fleet 'resilience'" in text
    assert f"without Redis {effect} (outage={outage}); the first call would wait for at most 2000 ms" in text


def test_live_instances_are_counted(
    redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Doctor counts as the heartbeat does: the living members of the set, and no dead one."""
    monkeypatch.setenv("RESILIENCE_REDIS__URL", redis_server.url)
    monkeypatch.setenv("RESILIENCE_REDIS__TIMEOUT", "2s")
    with contextlib.closing(redis_server.client()) as client:
        client.zadd("{resilience:fleet}:instances", {"dead": 1, "alive": 10**15})
    command_line.main(["doctor"])
    assert "1 live instance of the fleet 'resilience'" in capsys.readouterr().out


@pytest.mark.servers
def test_a_cluster(
    redis_cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Doctor names each master with its slots, and the slots without a master: then something is to fix."""
    monkeypatch.setenv("RESILIENCE_REDIS__URL", redis_cluster.url)
    monkeypatch.setenv("RESILIENCE_REDIS__TIMEOUT", "2s")
    command_line.main(["doctor"])
    text = capsys.readouterr().out
    assert "a cluster of 3 masters, which serve all slots" in text
    for server, slots in zip(redis_cluster.servers, ("0-5460", "5461-10921", "10922-16383"), strict=True):
        master = rf"127\.0\.0\.1:{server.port}, slots {slots}: (Redis|Valkey) \d+\.\d+\.\d+, PING \d+\.\d ms"
        assert re.search(master, text)
    assert "0 live instances of the fleet 'resilience'" in text
    assert "without one master, the same for its slots only" in text

    slot = 7
    redis_cluster.run(0, "CLUSTER DELSLOTS", slot)
    try:
        assert command_line.main(["doctor"]) == 1
        text = capsys.readouterr().out
        assert "cannot serve limiters: " in text
        assert "no master serves the slots 7" in text
    finally:
        redis_cluster.run(0, "CLUSTER ADDSLOTS", slot)
        redis_cluster.wait_until_ok()
