"""The application the servers of `test_servers.py` serve."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response, send_file

from resilience.server import current_request
from resilience_flask import FlaskResilience, rate_limit

extension = FlaskResilience()
most = most_ever = 0
counting = threading.Lock()
sample = Path(tempfile.gettempdir()) / f"resilience-flask-{os.getpid()}.txt"
sample.write_bytes(b"0123456789" * 10_000)


def create() -> Flask:
    app = Flask(__name__)
    _add_views(app)
    _add_bodies(app)
    extension.init_app(app)
    app.extensions["resilience"].lifecycle.on_stop(lambda: _say("stopped"))
    if port := os.environ.get("SIDE_PORT"):
        extension.serve_health(int(port))
    return app


def _say(text: str) -> None:
    if path := os.environ.get("SAID"):
        with open(path, "a") as file:  # noqa: PTH123 - appending a line at once
            file.write(f"{text}\n")


def _add_views(app: Flask) -> None:
    @app.get("/")
    def root() -> dict[str, Any]:
        context = current_request()
        return {"pid": os.getpid(), "request_id": context and context.request_id}

    @app.get("/busy")
    def busy() -> str:
        global most, most_ever  # noqa: PLW0603 - one process, one count
        with counting:
            most += 1
            most_ever = max(most, most_ever)
        time.sleep(0.05)
        with counting:
            most -= 1
        return str(most_ever)

    @app.get("/slow/<float:seconds>")
    def slow(seconds: float) -> str:
        _say("slow")
        time.sleep(seconds)
        return "done"

    @app.get("/limited")
    @rate_limit("5/hour", key=lambda: "everybody")
    def limited() -> str:
        return "x"

    @app.get("/in-flight")
    def in_flight() -> str:
        return str(app.extensions["resilience"].lifecycle.in_flight)


def _add_bodies(app: Flask) -> None:
    @app.get("/file")
    def file() -> Response:
        return send_file(sample, mimetype="text/plain")

    @app.get("/stream")
    def stream() -> Response:
        return Response(str(number) for number in range(5))

    @app.get("/breaks")
    def breaks() -> Response:
        def pieces() -> Iterator[str]:
            yield "a"
            raise ValueError("secret")

        return Response(pieces())

    @app.get("/fails")
    def fails() -> Response:
        return Response(str(1 // number) for number in (0, 1))
