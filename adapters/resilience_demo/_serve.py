"""Serves one example under uvicorn: `python -m resilience_demo._serve examples/fastapi_shop.py payments`.

The program listens on a free loopback port and writes the port as its first line. It reports the events of the named
pipelines. It ends when its standard input closes.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType

import uvicorn

from resilience_demo._parent_watch import end_with
from resilience_demo._report import Reporter

__all__ = ("load", "main")


def main(argv: list[str]) -> int:
    """Serve the example until SIGTERM, or until standard input ends."""
    path, *pipelines = argv
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn shuts down, then raises SIGTERM again
    end_with(sys.stdin.fileno(), lambda: signal.raise_signal(signal.SIGTERM))
    module = load(Path(path))
    listening = _socket()
    config = uvicorn.Config(module.app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    _write_line(json.dumps({"port": listening.getsockname()[1]}))
    for name in pipelines:
        Reporter(getattr(module, name), _write_line).start()
    uvicorn.Server(config).run(sockets=[listening])
    return 0


def _socket() -> socket.socket:
    """Return a socket on a free port. asyncio sets TCP_NODELAY only if the socket names TCP as its protocol."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    return listening


def load(path: Path) -> ModuleType:
    """Import the file at `path` as a module with the name of the file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _write_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
