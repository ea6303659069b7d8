"""Flask with everything on, against the same application without: in process, and under a real gunicorn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import harness
import served_flask
from cases_web import Server
from harness import Case, Contender, Sample, Session, Unavailable, Unit

__all__ = ("CASES",)

_HOW = {
    "bare": "one route that returns a small object",
    "resilience": (
        "FlaskResilience(app): request id, rate limit by address, at most 200 requests at once, a deadline of 10 s, "
        "probes, one shape for errors"
    ),
    "resilience, on Redis": "the same with the rate limit on Redis: one round trip a request",
    "resilience, defaults": "FlaskResilience(app) with nothing configured: request id, probes, one shape for errors",
    "Flask-Limiter": "a default limit; it does nothing else",
    "Flask-Limiter, on Redis": "the same on Redis",
}
_BUDGETS = {"resilience": 0.90, "resilience, on Redis": 0.65}
_CONNECTIONS = 4


def _environ() -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/orders/7",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "HTTP_HOST": "shop.example",
        "HTTP_USER_AGENT": "bench",
        "HTTP_ACCEPT": "*/*",
        "wsgi.url_scheme": "http",
    }


def _inside(name: str) -> Callable[[Session], Sample]:
    """Hand requests straight to the application: no server, no sockets."""

    def build(session: Session) -> Sample:
        app = _prepared(name, session)

        def start(status: str, _headers: Any, _error: Any = None) -> None:
            if not status.startswith("200"):
                raise Unavailable(f"answered {status}")

        def sample(number: int) -> float:
            begin = time.perf_counter_ns()
            for _ in range(number):
                body = app(_environ(), start)
                for _piece in body:
                    pass
                body.close()
            return (time.perf_counter_ns() - begin) / number

        return sample

    return build


def _served(name: str) -> Callable[[Session], Sample]:
    """Start gunicorn with the application; time what its worker takes for requests on kept-alive connections."""

    def build(session: Session) -> Sample:
        harness.peer("gunicorn")  # here, so that what is missing is said before a process starts
        _prepared(name, session)
        server = Server(name, served_flask.__file__, connections=_CONNECTIONS)
        session.stack.callback(server.close)
        return server.sample

    return build


def _prepared(name: str, session: Session) -> Any:
    if "Redis" in name:
        os.environ[served_flask.REDIS] = session.redis_url
    return served_flask.build(name)


def _contenders(how: Callable[[str], Callable[[Session], Sample]], budgets: dict[str, float]) -> tuple[Contender, ...]:
    return tuple(Contender(name, how(name), text, budgets.get(name)) for name, text in _HOW.items() if name != "bare")


CASES = (
    Case(
        "flask-gunicorn",
        "Flask under gunicorn",
        Contender("bare application", _served("bare"), _HOW["bare"]),
        _contenders(_served, _BUDGETS),
        unit=Unit.SHARE,
        note=(
            f"Real processes on loopback, one gthread worker of 4 threads, {_CONNECTIONS} kept-alive connections. A "
            "figure is the CPU time of the worker for one request, so `a second` is the capacity of one core."
        ),
        smallest=300,  # the system accounts for CPU time in ticks of some milliseconds
        largest=300,
    ),
    Case(
        "flask",
        "The same Flask application without a server",
        Contender("bare application", _inside("bare"), _HOW["bare"]),
        _contenders(_inside, {}),
        unit=Unit.SHARE,
        note="Requests reach the application as WSGI calls. The cost of the server is missing in all rows.",
    ),
)
