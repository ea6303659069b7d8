"""Pools of sessions of requests, against a real server."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import requests
from http_upstreams import Upstream
from requests.adapters import HTTPAdapter

from resilience import ConfigurationError, Pool
from resilience_http import ResilienceAdapter, requests_sessions


def test_cookies_of_one_borrower_reach_no_other(upstream: Upstream) -> None:
    """A session is lent again, with its connections and without the cookies of its last borrower."""
    with Pool(requests_sessions()) as pool:
        upstream.answers(200, set_cookie="user=alice")
        with pool.connection() as session:
            session.get(upstream.url, timeout=5)
            assert session.cookies["user"] == "alice"
        with pool.connection() as session:
            assert "cookie" not in session.get(upstream.url, timeout=5).json()
        assert pool.snapshot()["created"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda session: session.headers.update({"Authorization": "Bearer alice"}),
        lambda session: setattr(session, "auth", ("alice", "secret")),
        lambda session: setattr(session, "verify", False),
        lambda session: session.proxies.update({"http": "http://proxy"}),
        lambda session: session.hooks["response"].append(print),
        lambda session: session.mount("http://", HTTPAdapter()),
    ],
    ids=["headers", "auth", "verify", "proxies", "hooks", "adapters"],
)
def test_a_session_with_changed_settings_is_closed(change: Any) -> None:
    """Settings of one borrower, such as its token, reach no other."""
    with Pool(requests_sessions()) as pool:
        with pool.connection() as session:
            change(session)
        assert pool.snapshot()["closed"] == {"reset failed": 1}


def test_an_error_keeps_the_session(upstream: Upstream) -> None:
    """Each request stands alone: a failed one is no reason to close the session."""
    upstream.answers(503)
    with Pool(requests_sessions()) as pool:
        with pytest.raises(requests.HTTPError), pool.connection() as session:
            session.get(upstream.url, timeout=5).raise_for_status()
        assert pool.snapshot()["idle"] == 1


def test_sessions_are_made_by_a_function_of_the_user(upstream: Upstream) -> None:
    """`make` prepares each session, and threads that share the pool share no session at a time."""

    def make() -> requests.Session:
        session = requests.Session()
        session.headers["X-Shop"] = "north"
        session.mount("http://", ResilienceAdapter())
        return session

    answers: list[str] = []
    with Pool(requests_sessions(make), maximum_pool_size=2) as pool:

        def ask() -> None:
            with pool.connection() as session:
                answers.append(session.get(upstream.url, timeout=5).json()["x-shop"])

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == ["north"] * 6
        assert pool.snapshot()["created"] <= 2


def test_a_wrong_function_is_refused() -> None:
    """Anything but a plain function is named when the connector is made."""
    with pytest.raises(ConfigurationError, match="make="):
        requests_sessions(requests.Session())  # type: ignore[arg-type]  # wrong on purpose
