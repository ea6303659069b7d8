"""Redis over TLS: the servers' certificates are checked, and the client can show its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis_process import RedisProcess
from tls_front import tls_front

from resilience import ConfigurationError, Resilience
from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection

pytestmark = [pytest.mark.redis, pytest.mark.servers]


def limiter(port: int, host: str = "localhost", **options: Any) -> tuple[RedisStore, TokenBucket]:
    """Return a limiter that refuses without Redis, and its store."""
    store = RedisStore(RedisConnection.from_url(f"rediss://{host}:{port}/0", timeout=5, outage="deny", **options))
    return store, TokenBucket("3600/hour", store=store, name="tls")


async def test_both_colours_show_their_certificate(redis_server: RedisProcess, pki: Path) -> None:
    """A server that checks its clients serves threads and tasks, which have checked the server."""
    files = {"tls_ca": "ca.pem", "tls_certificate": "client.pem", "tls_key": "client.key"}
    with tls_front(redis_server.port, pki, checks_clients=True) as port:
        store, bucket = limiter(port, **{name: str(pki / file) for name, file in files.items()})
        try:
            assert (await bucket.aacquire("k")).allowed
            assert bucket.acquire("k").remaining == 3598
            assert store.connection.sync.ping()
        finally:
            await store.connection.aclose()


@pytest.mark.parametrize(
    ("host", "ca"),
    [("127.0.0.1", "ca.pem"), ("localhost", "stranger.pem")],
    ids=["another name", "another authority"],
)
async def test_a_server_that_is_not_the_right_one(redis_server: RedisProcess, pki: Path, host: str, ca: str) -> None:
    """A certificate of another name or authority is an outage: nothing is sent to that server."""
    with tls_front(redis_server.port, pki) as port:
        store, bucket = limiter(port, host, tls_ca=str(pki / ca))
        try:
            assert not bucket.acquire("k").allowed
            assert not (await bucket.aacquire("k")).allowed
            assert store.outage.is_down
        finally:
            await store.connection.aclose()


async def test_a_url_can_switch_the_checks_off(redis_server: RedisProcess, pki: Path) -> None:
    """With `ssl_cert_reqs=none` any certificate will do, in each version of redis-py."""
    with tls_front(redis_server.port, pki) as port:
        url = f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none"
        connection = RedisConnection.from_url(url, timeout=5, outage="deny")
        bucket = TokenBucket("3600/hour", store=RedisStore(connection), name="unchecked")
        try:
            assert connection.diagnose() is None
            assert bucket.acquire("k").allowed
            assert (await bucket.aacquire("k")).allowed
        finally:
            await connection.aclose()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tls_ca": "missing.pem"}, r"tls_ca='.*missing.pem': expected a PEM file of certificates \(No such file"),
        ({"tls_ca": "text.pem"}, "tls_ca=.*expected a PEM file of certificates"),
        ({"tls_certificate": "client.pem", "tls_key": "server.key"}, "tls_certificate=.*KEY_VALUES_MISMATCH"),
        ({"tls_certificate": "server.pem", "tls_key": "locked.key"}, "tls_certificate=.*passphrase"),
        ({"tls_key": "client.key"}, "tls_certificate=None: expected the path of a PEM file"),
    ],
)
def test_wrong_files_are_named(pki: Path, options: dict[str, str], why: str) -> None:
    """A file that is missing or wrong is refused when the connection is made."""
    with pytest.raises(ConfigurationError, match=why):
        RedisConnection.from_url("rediss://localhost/0", **{name: str(pki / file) for name, file in options.items()})


def test_files_need_a_url_with_tls(pki: Path) -> None:
    """Files beside a URL without TLS would protect nothing: the error names their variable."""
    environ = {"RESILIENCE_REDIS__URL": "redis://localhost/0", "RESILIENCE_REDIS__TLS_CA": str(pki / "ca.pem")}
    with pytest.raises(ConfigurationError, match=r"RESILIENCE_REDIS__TLS_CA=.*rediss://"):
        Resilience.from_env(environ).limiter("k", "1/second")


@pytest.mark.parametrize("name", ["sentinel_username", "sentinel_password"])
def test_credentials_of_sentinels_need_a_url_with_sentinels(name: str) -> None:
    """Beside another URL they would protect nothing: the error names the variable, and no password."""
    environ = {"RESILIENCE_REDIS__URL": "redis://localhost/0", f"RESILIENCE_REDIS__{name.upper()}": "s3cret"}
    with pytest.raises(ConfigurationError, match=rf"RESILIENCE_REDIS__{name.upper()}=.*redis\+sentinel://") as refused:
        Resilience.from_env(environ).limiter("k", "1/second")
    assert ("s3cret" in str(refused.value)) == (name == "sentinel_username")
