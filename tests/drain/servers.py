"""The servers of the matrix: how each is started, and how its drain begins."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec

__all__ = ("SERVERS", "Server")

_LIMIT = "{limit}"
_PORT = "{port}"
_LOOPS_WAIT = sys.version_info >= (3, 12)
"""Whether asyncio's `Server.wait_closed` waits for connections that are still open."""


@dataclass(frozen=True)
class Server:
    """One kind of server. In `arguments` stand `{port}` and `{limit}`, its own limit on shutting down, in seconds."""

    name: str
    arguments: tuple[str, ...]
    module: str = ""
    """Packages that the server needs beside the frameworks."""
    loads: int = 0
    """The number of processes that load the application. They do not become ready at the same moment."""
    is_grpc: bool = False
    takes_file: bool = False
    """Whether the drain begins by the drain file: this server takes the signal itself, so it cannot be held back."""
    kills: bool = False
    """Whether the parent kills its workers at the limit."""
    waits: bool = False
    """Whether the server waits for its last request beyond its limit."""

    @property
    def is_there(self) -> bool:
        """Whether all packages are installed."""
        return not self.module or find_spec(self.module) is not None

    def command(self, port: int, limit: float) -> list[str]:
        """Return the arguments of the Python that serves."""
        return [part.format(port=port, limit=f"{limit:g}") for part in self.arguments]


def _uvicorn(name: str, *more: str, workers: int = 1) -> Server:
    own = ("-m", "uvicorn", "asgi:app", "--port", _PORT, "--timeout-graceful-shutdown", _LIMIT, *more)
    return Server(name, own, loads=workers)


def _gunicorn(name: str, app: str, *more: str, module: str = "", workers: int = 1) -> Server:
    own = ("-m", "gunicorn", app, "-b", f"127.0.0.1:{_PORT}", "--graceful-timeout", _LIMIT, "-w", str(workers), *more)
    loads = 1 if "--preload" in more else workers
    return Server(name, own, module, loads=loads, kills=True)


def _flask(kind: str, *more: str, module: str = "", workers: int = 1) -> tuple[Server, Server]:
    """Return the server without and with an application that is loaded before the fork."""
    name, own = f"gunicorn {kind}", ("-k", kind, *more)
    preload = ("--preload", "-c", "preloaded.py")
    return (
        _gunicorn(name, "wsgi:app", *own, module=module, workers=workers),
        _gunicorn(f"{name} --preload", "wsgi:app", *own, *preload, module=module, workers=workers),
    )


def _hypercorn(name: str, *more: str, workers: int = 1) -> Server:
    own = ("-m", "hypercorn", "asgi:app", "-b", f"127.0.0.1:{_PORT}", "--graceful-timeout", _LIMIT, *more)
    return Server(
        name,
        own,
        "hypercorn",
        loads=workers,
        takes_file=True,
        waits=workers == 1 and _LOOPS_WAIT,
    )


def _grpc(kind: str) -> Server:
    return Server(f"grpc {kind}", ("rpc.py", kind, _PORT), is_grpc=True)


_WORKER = ("-k", "uvicorn_worker.UvicornWorker")

SERVERS = (
    _uvicorn("uvicorn"),
    _uvicorn("uvicorn --workers 2", "--workers", "2", workers=2),
    _gunicorn("gunicorn uvicorn-worker", "asgi:app", *_WORKER, module="uvicorn_worker"),
    _gunicorn("gunicorn uvicorn-worker --preload", "asgi:app", *_WORKER, "--preload", module="uvicorn_worker"),
    *_flask("sync", workers=3),
    *_flask("gthread", "--threads", "16"),
    *_flask("gevent", module="gevent"),
    _hypercorn("hypercorn -w 0", "-w", "0"),
    _hypercorn("hypercorn -w 2", "-w", "2", workers=2),
    _grpc("sync"),
    _grpc("aio"),
)
