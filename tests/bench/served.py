"""The application that is measured, bare and guarded; run as a program it serves one of them on a free port."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:  # PYTHONSAFEPATH leaves the script's own directory out
    sys.path.insert(0, HERE)

import harness  # noqa: E402 - the path comes first

__all__ = ("REDIS", "build")

REDIS = "BENCH_REDIS_URL"
"""The variable that says where Redis is."""

_PLENTY = "1000000000/second"
_EVERYTHING = {
    "RESILIENCE_SERVER__RATE_LIMIT": _PLENTY,
    "RESILIENCE_SERVER__MAX_CONCURRENT_REQUESTS": "200",
    "RESILIENCE_SERVER__DEADLINE": "10s",
}


def _bare() -> Any:
    app = harness.peer("fastapi").FastAPI()

    async def read(order: int) -> dict[str, int]:
        return {"order": order}

    app.get("/orders/{order}")(read)
    return app


def _resilience(settings: dict[str, str]) -> Any:
    adapter = harness.peer("resilience_fastapi", "resilience-plugins[fastapi]")
    app = _bare()
    adapter.install(app, harness.peer("resilience").Resilience.from_env(settings))
    return app


def _slowapi(middleware: str, storage: str = "memory://") -> Any:
    slowapi = harness.peer("slowapi")
    app = _bare()
    app.state.limiter = slowapi.Limiter(
        key_func=harness.peer("slowapi.util").get_remote_address, default_limits=[_PLENTY], storage_uri=storage
    )
    app.add_middleware(getattr(harness.peer("slowapi.middleware"), middleware))
    return app


def _pyresilience() -> Any:
    module, middleware = harness.peer("pyresilience"), harness.peer("pyresilience.contrib.fastapi")
    config = module.ResilienceConfig(
        rate_limiter=module.RateLimiterConfig(max_calls=10**9, period=1),
        bulkhead=module.BulkheadConfig(max_concurrent=200),
        timeout=module.TimeoutConfig(seconds=10),
    )
    app = _bare()
    app.add_middleware(middleware.ResilientMiddleware, config=config)
    return app


_APPS = {
    "bare": _bare,
    "resilience": lambda: _resilience(_EVERYTHING),
    "resilience, on Redis": lambda: _resilience({**_EVERYTHING, "RESILIENCE_REDIS__URL": os.environ[REDIS]}),
    "resilience, defaults": lambda: _resilience({}),
    "slowapi": lambda: _slowapi("SlowAPIASGIMiddleware"),
    "slowapi, on Redis": lambda: _slowapi("SlowAPIASGIMiddleware", os.environ[REDIS]),
    "slowapi, BaseHTTPMiddleware": lambda: _slowapi("SlowAPIMiddleware"),
    "pyresilience": _pyresilience,
}


def build(name: str) -> Any:
    """Return the application of that name; `harness.Unavailable` where something it needs is not installed."""
    return _APPS[name]()


def main(name: str) -> None:
    """Serve on a free port and print which, once connections are accepted."""
    uvicorn = harness.peer("uvicorn")
    # The protocol is named because asyncio turns Nagle's delay off only where it is, and 40 ms would be all we measure.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(build(name), access_log=False, log_level="warning", timeout_keep_alive=600)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
