"""The Flask application that is measured, bare and guarded; run as a program it is served by one gunicorn worker."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:  # PYTHONSAFEPATH leaves the script's own directory out
    sys.path.insert(0, HERE)

import harness  # noqa: E402 - the path comes first

__all__ = ("REDIS", "build")

REDIS = "BENCH_REDIS_URL"
_PLENTY = "1000000000/second"
_EVERYTHING = {
    "RESILIENCE_SERVER__RATE_LIMIT": _PLENTY,
    "RESILIENCE_SERVER__MAX_CONCURRENT_REQUESTS": "200",
    "RESILIENCE_SERVER__DEADLINE": "10s",
}


def _bare() -> Any:
    app = harness.peer("flask").Flask("bench", static_folder=None)

    def read(order: int) -> dict[str, int]:
        return {"order": order}

    app.get("/orders/<int:order>")(read)
    return app


def _resilience(settings: dict[str, str]) -> Any:
    adapter = harness.peer("resilience_flask", "resilience-plugins[flask]")
    app = _bare()
    quiet = {"RESILIENCE_LIFECYCLE__SIGNALS": "false", **settings}
    adapter.FlaskResilience(app, harness.peer("resilience").Resilience.from_env(quiet))
    return app


def _flask_limiter(storage: str) -> Any:
    limiter, find = harness.peer("flask_limiter"), harness.peer("flask_limiter.util").get_remote_address
    app = _bare()
    limiter.Limiter(find, app=app, default_limits=[_PLENTY], storage_uri=storage)
    return app


_APPS: dict[str, Callable[[], Any]] = {
    "bare": _bare,
    "resilience": lambda: _resilience(_EVERYTHING),
    "resilience, on Redis": lambda: _resilience({**_EVERYTHING, "RESILIENCE_REDIS__URL": os.environ[REDIS]}),
    "resilience, defaults": lambda: _resilience({}),
    "Flask-Limiter": lambda: _flask_limiter("memory://"),
    "Flask-Limiter, on Redis": lambda: _flask_limiter(os.environ[REDIS]),
}


def build(name: str) -> Any:
    """Return the application of that name; `harness.Unavailable` where something it needs is not installed."""
    return _APPS[name]()


def main(name: str) -> None:
    """Serve on a free port, and print that and the worker's process once it takes requests."""
    base = harness.peer("gunicorn.app.base", "gunicorn")
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    settings = {
        "bind": f"fd://{listener.fileno()}",
        "worker_class": "gthread",
        "threads": 4,
        "keepalive": 600,
        "loglevel": "error",
        "post_worker_init": lambda worker: print(port, worker.pid, flush=True),
    }

    class Served(base.BaseApplication):  # type: ignore[misc,name-defined]  # gunicorn may be missing
        def load_config(self) -> None:
            for option, value in settings.items():
                self.cfg.set(option, value)

        def load(self) -> Any:
            return build(name)

    made: Any = Served
    made().run()


if __name__ == "__main__":
    main(sys.argv[1])
