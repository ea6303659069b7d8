"""Sessions of requests for pools: a session is not safe to share between threads."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import requests

from resilience.errors import ConfigurationError, Problem
from resilience.options import is_plain_callable
from resilience.pool import Connector

__all__ = ("requests_sessions",)

_Settings: TypeAlias = "weakref.WeakKeyDictionary[requests.Session, dict[str, object]]"

_SETTINGS = (
    "adapters",
    "auth",
    "cert",
    "headers",
    "hooks",
    "max_redirects",
    "params",
    "proxies",
    "stream",
    "trust_env",
    "verify",
)


def requests_sessions(make: Callable[[], requests.Session] = requests.Session) -> Connector[requests.Session]:
    """Return the connector of sessions of requests, for a `Pool`.

    A session keeps cookies and settings, and its cookie jar is changed by each response. So threads must not share a
    session. A pool lends a session to one thread at a time, and the session keeps its connections to the servers. When
    a session comes back, its cookies are cleared. If its settings differ from those with which it was made, such as a
    header that the borrower has added, the session is closed.

    Clients of httpx and httpx2 need no such pool: they can be shared, and have a pool of connections of their own.

    Args:
        make: Returns a new session, such as a function that mounts a `ResilienceAdapter`.

    Raises:
        ConfigurationError: `make` is not a plain function.

    Example:
        >>> from resilience import Pool
        >>> pool = Pool(requests_sessions(), maximum_pool_size=10)
        >>> with pool.connection() as session:
        ...     session.headers["Accept"]
        '*/*'
    """
    if not is_plain_callable(make):
        raise ConfigurationError([Problem("make", make, "a function without arguments that returns a session")])
    settings: _Settings = weakref.WeakKeyDictionary()
    return Connector(
        connect=partial(_connect, make, settings),
        close=requests.Session.close,
        abort=requests.Session.close,
        reset=partial(_reset, settings),
    )


def _connect(make: Callable[[], requests.Session], settings: _Settings) -> requests.Session:
    session = make()
    settings[session] = _settings_of(session)
    return session


def _settings_of(session: requests.Session) -> dict[str, object]:
    """Return copies of the settings that a borrower can change."""
    return {name: _copied(getattr(session, name)) for name in _SETTINGS}


def _copied(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _copied(each) for name, each in value.items()}
    return [*value] if isinstance(value, list) else value


def _reset(settings: _Settings, session: requests.Session) -> None:
    changed = [name for name, value in _settings_of(session).items() if value != settings[session][name]]
    if changed:
        raise ValueError(f"the borrower has changed {', '.join(changed)} of the session")
    session.cookies.clear()
