"""Walk through the code with a call: which functions of ours run, in which files, and how often the file changes.

    python tests/walks.py [WALK ...] [--steps]

A reader of the code takes the same way. A walk makes its call twice and records the second one by a profile hook: the
first one imports and compiles. Coroutines and generators that go on count as calls.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import resilience
from resilience import CircuitBreaker, Pipeline, Resilience, Retry
from resilience._support.fixed import Fixed

_TEXTS = ("resilience.event_log/", "resilience._support/printable", "resilience._support/log_writer")


class Step(NamedTuple):
    """One call of a function of ours."""

    file: str
    function: str


class Walk(NamedTuple):
    """The steps of one call, in their order."""

    steps: tuple[Step, ...]

    @property
    def files(self) -> int:
        """How many files the call visits."""
        return len({step.file for step in self.steps})

    @property
    def moves(self) -> int:
        """How often the file changes, the first one included."""
        before = ("", *(step.file for step in self.steps))
        return sum(step.file != last for step, last in zip(self.steps, before, strict=False))


@contextlib.contextmanager
def recording() -> Iterator[list[Step]]:
    """Record the calls of functions of ours in this thread, and in threads that start meanwhile.

    No garbage is collected meanwhile: the finalizers of earlier objects are no steps of the call.
    """
    steps: list[Step] = []

    def hook(frame: Any, event: str, _argument: Any) -> None:
        file = frame.f_code.co_filename
        package = next((part for part in reversed(Path(file).parts[:-1]) if part.startswith("resilience")), None)
        if frame.f_code is Fixed.__setattr__.__code__:
            return  # an assignment is not a call that a reader sees
        if event == "call" and package is not None and frame.f_globals.get("__name__", "").startswith("resilience"):
            name = ".".join(frame.f_globals["__name__"].split(".")[:-1]) + "/" + Path(file).name
            steps.append(Step(name, frame.f_code.co_qualname))

    gc.disable()
    threading.setprofile(hook)
    sys.setprofile(hook)
    try:
        yield steps
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        gc.enable()


def walked(call: Callable[[], object]) -> Walk:
    """Make the call twice and return the walk of the second one."""
    with contextlib.suppress(ConnectionError):
        call()
    with recording() as steps, contextlib.suppress(ConnectionError):
        call()
    return Walk(tuple(steps))


def _failing() -> None:
    raise ConnectionError


def success() -> Walk:
    """Walk with a call that a closed breaker guards and that succeeds."""
    return walked(Pipeline("walk", CircuitBreaker(fail_max=100))(lambda: None))


def failure() -> Walk:
    """Walk with a call that fails and opens no circuit."""
    return walked(Pipeline("walk", CircuitBreaker(fail_max=100))(_failing))


def opening_logged() -> Walk:
    """Walk with the second failure of two that open the circuit, and with the line in the log that reports it."""
    return walked(Pipeline("walk", CircuitBreaker(fail_max=2))(_failing))


def opening() -> Walk:
    """Walk with the same failure as far as the circuit is concerned: without the texts for the log and for refusals."""
    return Walk(tuple(step for step in opening_logged().steps if not step.file.startswith(_TEXTS)))


def refusal() -> Walk:
    """Walk with a call that an open circuit refuses."""
    breaker = CircuitBreaker(fail_max=1)
    guarded = Pipeline("walk", breaker)(_failing)
    with contextlib.suppress(ConnectionError):
        guarded()

    def refused() -> None:
        with contextlib.suppress(resilience.CircuitOpenError):
            guarded()

    return walked(refused)


def retry() -> Walk:
    """Walk with a call that fails in both of two attempts."""
    return walked(Pipeline("walk", Retry(attempts=2, on=ConnectionError, wait_initial=0, wait_jitter=0))(_failing))


def fastapi() -> Walk:
    """Walk with an error of the application's own from a FastAPI handler to the client."""
    from fastapi import FastAPI  # noqa: PLC0415 - the others do not need it

    from resilience_fastapi import install  # noqa: PLC0415

    app = FastAPI()
    install(app, Resilience())

    @app.get("/")
    async def index() -> None:
        steps.clear()
        raise resilience.AppError("WALK_N001", "gone", http_status=404)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"walk")],
        "http_version": "1.1",
        "scheme": "http",
        "client": ("203.0.113.9", 1),
        "server": ("walk", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(_message: Any) -> None:
        """Take the answer."""

    with recording() as steps:
        asyncio.run(app(scope, receive, send))
        asyncio.run(app(scope, receive, send))
        return Walk(tuple(steps))


def grpc() -> Walk:
    """Walk with an error of the application's own from a method of a gRPC server, in threads, to the client."""
    from grpc_shop import Threads, running  # noqa: PLC0415 - the others do not need it

    class Failing(Threads):
        def act(self, text: str, servicer: Any) -> str:
            steps.clear()
            raise resilience.AppError("WALK_N001", "gone", http_status=404)

    with recording() as steps, running("sync", Resilience(), Failing()) as server:
        for _ in range(2):
            server.failure("unary_unary", "app")
            time.sleep(0.2)  # the server's thread goes on after the client has its answer
        return Walk(tuple(steps))


def environment() -> Walk:
    """Walk with one value from the environment to the option of a policy in a pipeline."""
    environ = {"RESILIENCE_PIPELINE__PAYMENTS__BREAKER__FAIL_MAX": "3"}
    return walked(lambda: Resilience.from_env(environ).pipeline("payments"))


WALKS: dict[str, Callable[[], Walk]] = {
    each.__name__: each
    for each in (success, failure, opening, opening_logged, refusal, retry, fastapi, grpc, environment)
}


def main() -> None:
    """Print the walks."""
    sys.path.append(str(Path(__file__).parent / "support"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("walks", nargs="*", default=[], help=f"of {', '.join(WALKS)}; all if none is named")
    parser.add_argument("--steps", action="store_true", help="print each call, too")
    arguments = parser.parse_args()
    print(f"{'walk':15} {'calls':>6} {'files':>6} {'moves':>6}")
    for name in arguments.walks or WALKS:
        walk = WALKS[name]()
        print(f"{name:15} {len(walk.steps):6} {walk.files:6} {walk.moves:6}")
        for step in walk.steps if arguments.steps else ():
            print(f"    {step.file:40} {step.function}")


if __name__ == "__main__":
    main()
