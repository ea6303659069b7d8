from __future__ import annotations

import contextlib
import sys

import pytest
from fleet_instance import Partner, eventually
from redis_process import RedisProcess

from resilience import __main__ as command_line
from resilience.errors import ConfigurationError, RateLimitedError
from resilience.fleet import Fleet
from resilience.toolkit import Resilience

pytestmark = pytest.mark.redis


def _environ(server: RedisProcess, **more: str) -> dict[str, str]:
    return {"RESILIENCE_REDIS__URL": server.url, "RESILIENCE_REDIS__TIMEOUT": "1s", **more}


def test_a_limiter_holds_across_instances(redis_server: RedisProcess) -> None:
    """Two instances with the same URL share one bucket."""
    with Resilience.from_env(_environ(redis_server)) as one, Resilience.from_env(_environ(redis_server)) as other:
        first = one.limiter("login", "2/hour")
        second = other.limiter("login", "2/hour")
        assert [first.acquire("ann").allowed, second.acquire("ann").allowed] == [True, True]
        assert [first.acquire("ann").allowed, second.acquire("ann").allowed] == [False, False]


async def test_a_configured_rate_limit_of_a_pipeline_holds_across_instances(redis_server: RedisProcess) -> None:
    """The pipeline's limit is the fleet's, in both colours."""
    environ = _environ(redis_server, RESILIENCE_PIPELINE__PAYMENTS__RATE_LIMIT__RATE="2/hour")
    async with Resilience.from_env(environ) as one, Resilience.from_env(environ) as other:

        async def charge() -> str:
            return "paid"

        assert await one.pipeline("payments").acall(charge) == "paid"
        assert await other.pipeline("payments").acall(charge) == "paid"
        with pytest.raises(RateLimitedError):
            await one.pipeline("payments").acall(charge)
        with pytest.raises(RateLimitedError):
            other.pipeline("payments").call(lambda: "paid")


async def test_one_connection_serves_everything_and_survives_being_closed(redis_server: RedisProcess) -> None:
    """Health, limiters and pipelines share one connection; after a close it opens again on use."""
    toolkit = Resilience.from_env(_environ(redis_server))
    assert toolkit.redis is toolkit.redis
    bucket = toolkit.limiter("x", "100/second")
    assert bucket.acquire().allowed
    toolkit.close()
    toolkit.close()
    assert (await bucket.aacquire()).allowed
    await toolkit.aclose()
    await toolkit.aclose()


def test_health_watches_the_redis_that_is_configured(redis_server: RedisProcess) -> None:
    """With a URL there is a check called redis; without a URL there is no such check."""
    with Resilience.from_env(_environ(redis_server)) as toolkit:
        assert "redis" in toolkit.health.names("ready")
        (entry,) = [entry for entry in toolkit.health.report("ready").entries if entry.name == "redis"]
        assert entry.status == "ok"
    assert "redis" not in Resilience().health.names("ready")


def test_doctor_finds_redis(
    redis_server: RedisProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a server that answers, the doctor prints a line with the time it took."""
    for name, value in _environ(redis_server).items():
        monkeypatch.setenv(name, value)
    assert command_line.main(["doctor"]) == 0
    assert "ok    redis server" in capsys.readouterr().out


@pytest.mark.parametrize("url", ["redis://u:hunter2@127.0.0.1:1/0", "redis://u:hunter2@127.0.0.1:1/0?tls=1"])
def test_doctor_misses_redis(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """For a server that does not answer, the doctor prints a failure without the password."""
    monkeypatch.setenv("RESILIENCE_REDIS__URL", url)
    assert command_line.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  redis server" in out
    assert "redis://u:***@127.0.0.1" in out
    assert "hunter2" not in out


def test_a_url_nobody_can_read_stops_the_start() -> None:
    """The error comes from `from_env`, names the variable, and hides the password."""
    with pytest.raises(ConfigurationError) as caught:
        Resilience.from_env({"RESILIENCE_REDIS__URL": "redis://u:hunter2@cache:port/0"})
    assert caught.value.problems[0].option == "RESILIENCE_REDIS__URL"
    assert "hunter2" not in str(caught.value)


def test_a_missing_extra_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package for shared state is reported at start, with the command that installs it."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r'pip install "resilience-plugins\[redis\]"'):
        Resilience.from_env({"RESILIENCE_REDIS__URL": "redis://cache"})


def test_the_fleet_of_a_toolkit(redis_server: RedisProcess) -> None:
    """A toolkit shows its instance, measures the live ones, and leaves the fleet when it is closed."""
    toolkit = Resilience.from_env({"RESILIENCE_REDIS__URL": redis_server.url, "RESILIENCE_REDIS__TIMEOUT": "2s"})
    assert toolkit.snapshot()["redis"] == {"is_down": False}
    limiter = toolkit.limiter("orders", "10/second")
    connection = toolkit.redis
    assert connection is not None
    fleet = Fleet.of(connection)
    limiter.acquire("k")
    with contextlib.closing(redis_server.client()) as client:
        eventually(lambda: client.zrange("{resilience:fleet}:instances", 0, -1) == [fleet.instance.encode()])
        shown = {"is_down": False, "instance": fleet.instance, "instances": 1, "is_lost": False}
        assert toolkit.snapshot()["redis"] == shown
        assert fleet.measure().levels == {"instances": 1}
        toolkit.close()
        assert client.zcard("{resilience:fleet}:instances") == 0
    assert fleet.measure().levels == {"instances": 0}


def test_a_lost_and_found_redis_is_an_event_of_the_toolkit(own_redis_server: RedisProcess) -> None:
    """A listener of the toolkit learns once that the rounds fail, and once that they succeed again."""
    toolkit = Resilience.from_env({"RESILIENCE_REDIS__URL": own_redis_server.url})
    kinds: list[str] = []
    toolkit.subscribe(lambda event: kinds.append(event.kind))
    connection, partner = toolkit.redis, Partner()
    assert connection is not None
    fleet = Fleet.of(connection)
    fleet.join(partner)
    eventually(lambda: partner.replies)
    own_redis_server.kill()
    eventually(lambda: partner.failures)
    assert kinds == ["fleet.lost"]
    own_redis_server.start()
    rounds = len(partner.replies)
    eventually(lambda: len(partner.replies) > rounds)
    assert kinds == ["fleet.lost", "fleet.found"]
    toolkit.close()
