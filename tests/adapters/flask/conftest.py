"""Applications under test: in process for most, under real servers for what only a server shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from wsgiref.validate import validator

import pytest
from flask import Flask
from werkzeug.test import Client, EnvironBuilder

from resilience import Resilience


class _Closing(Client):
    """Reads each answer to its end and closes it, as servers do."""

    def open(self, *args: Any, **options: Any) -> Any:
        return super().open(*args, **{"buffered": True, **options})


@pytest.fixture(autouse=True)
def _no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the signals of the test run alone."""
    monkeypatch.setenv("RESILIENCE_LIFECYCLE__SIGNALS", "false")


@pytest.fixture
def toolkit() -> Callable[..., Resilience]:
    """Build a toolkit as if by environment."""

    def build(**settings: str) -> Resilience:
        quiet = {"lifecycle__signals": "false", **settings}
        return Resilience.from_env({f"RESILIENCE_{name.upper()}": value for name, value in quiet.items()})

    return build


@pytest.fixture
def app() -> Flask:
    """Make an application; errors reach clients as responses, as in production."""
    return Flask("shop", static_folder=None)


@pytest.fixture
def browse() -> Callable[..., Client]:
    """Open a client of an application in this process, with WSGI's own rules held on both sides."""

    def open_client(app: Any, address: str = "203.0.113.9") -> Client:
        checked = validator(app)

        def serve(environ: dict[str, Any], start_response: Any) -> Any:
            environ["REMOTE_ADDR"] = address
            environ.setdefault("SCRIPT_NAME", "")
            return checked(environ, start_response)

        return _Closing(serve)

    return open_client


@pytest.fixture
def open_body() -> Callable[..., Any]:
    """Ask for a path and return the body before anything of it is read, as a server holds it."""

    def ask(app: Any, path: str = "/", **options: Any) -> Any:
        environ = EnvironBuilder(path=path, **options).get_environ()
        answers: list[Any] = []
        body = app(environ, lambda status, headers, exc_info=None: answers.append((status, headers)))
        return body, answers

    return ask
