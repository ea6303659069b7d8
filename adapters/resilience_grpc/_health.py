"""The standard health service of gRPC, answered by the checks and the lifecycle of the toolkit.

`add_health` adds one of two services to a server. `ThreadedHealth` is for `grpc`: it answers while all threads of the
server are busy, and a stream of health takes no thread. `AioHealth` is for `grpc.aio`. Both take their answers from
`_HealthSource`, and both end their streams at the drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import ParamSpec, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import grpc
import grpc.aio
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from resilience import Resilience
from resilience.health import Report
from resilience.options import seconds
from resilience_grpc._colour_checks import check_server
from resilience_grpc._grpcio_internals import serve_in
from resilience_grpc._types import Behaviour

__all__ = ("AioHealth", "ThreadedHealth", "add_health", "health_of")

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("resilience")
_DEFAULT_GROUPS = {"": "ready", "readiness": "ready", "liveness": "live", "startup": "startup"}
_CHECK_THREADS = 2

_attached: WeakKeyDictionary[object, tuple[Resilience, ThreadedHealth | AioHealth]] = WeakKeyDictionary()


def add_health(
    server: grpc.Server | grpc.aio.Server,
    resilience: Resilience | None = None,
    *,
    services: Iterable[str] | Mapping[str, str] = (),
    interval: float | str | timedelta = 1.0,
) -> Resilience:
    """Have a server answer `grpc.health.v1.Health`, and return the toolkit whose checks answer.

    The answer is NOT_SERVING until `resilience.lifecycle` is ready, while a check of readiness fails, and from the
    drain on. The empty name stands for readiness. `liveness`, `readiness` and `startup` are always known: a probe of
    Kubernetes can ask for them. A stream of health learns of a drain at once, and of any other change within
    `interval`.

    Args:
        server: A server of `grpc` or of `grpc.aio`, before it starts.
        resilience: The toolkit of the service. Default: `Resilience.from_env()`.
        services: More names that stand for readiness, or a mapping from names to groups of checks. Default: none.
        interval: The time between two looks at the checks of a stream, in seconds or as text, above 0. Default: 1 s.

    Raises:
        ConfigurationError: A group has no checks, or the interval is wrong.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> server = grpc.server(ThreadPoolExecutor(8))
        >>> toolkit = add_health(server, Resilience(), services=["shop.Orders"])
    """
    check_server(server, "add_health")
    toolkit = Resilience.of(resilience)
    toolkit.health.attach(toolkit.lifecycle)
    source = _HealthSource(toolkit, services, seconds(interval, "interval", above=True))
    service = AioHealth(source) if isinstance(server, grpc.aio.Server) else ThreadedHealth(source)
    server.add_generic_rpc_handlers((_handlers(service.check, service.watch),))
    _attached[server] = toolkit, service
    return toolkit


def health_of(server: object) -> tuple[Resilience, ThreadedHealth | AioHealth] | None:
    """Return the toolkit and the health service of a server, None if `add_health` was not called for it."""
    return _attached.get(server)


def _handlers(check: Behaviour, watch: Behaviour) -> grpc.GenericRpcHandler:
    read, write = HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
    methods = {
        "Check": grpc.unary_unary_rpc_method_handler(check, read, write),
        "Watch": grpc.unary_stream_rpc_method_handler(watch, read, write),
    }
    return grpc.method_handlers_generic_handler(health.SERVICE_NAME, methods)


def _response(report: Report | None) -> HealthCheckResponse:
    """Return the response for a report. None is a name that nothing is known about."""
    if report is None:
        return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
    return HealthCheckResponse(status=HealthCheckResponse.SERVING if report.ok else HealthCheckResponse.NOT_SERVING)


_NOT_SERVING = HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING)


class _HealthSource:
    """The names that clients may ask for, and the reports behind them.

    Args:
        resilience: The toolkit whose health and lifecycle are asked.
        services: Names that stand for readiness, or a mapping from names to groups of checks.
        interval: Seconds between two looks at the checks of a stream.
    """

    def __init__(self, resilience: Resilience, services: Iterable[str] | Mapping[str, str], interval: float) -> None:
        self._health, self._lifecycle = resilience.health, resilience.lifecycle
        self.interval = interval
        named = services if isinstance(services, Mapping) else dict.fromkeys(services, "ready")
        self._groups = {**_DEFAULT_GROUPS, **named}
        for group in self._groups.values():
            self._health.names(group)  # raises for a group without checks

    def report(self, name: str) -> Report | None:
        """Return the report behind a name, None if the name is unknown."""
        group = self._groups.get(name)
        return None if group is None else self._health.report(group)

    async def areport(self, name: str) -> Report | None:
        """Return the report behind a name, None if the name is unknown."""
        group = self._groups.get(name)
        return None if group is None else await self._health.areport(group)

    def on_change(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Have `listener` called, in any thread, when the lifecycle changes. The function returned ends that."""
        return self._lifecycle.events.subscribe(lambda _event: listener())


# On threads


_Send: TypeAlias = Callable[[HealthCheckResponse | None], None]


class _Watcher:
    """One stream of health, and the status that was sent last. Only the notifying thread sends."""

    def __init__(self, name: str, send: _Send) -> None:
        self.name = name
        self._send = send
        self._last_status: object = None

    def send(self, response: HealthCheckResponse) -> None:
        """Send a response if its status differs from the last one."""
        if response.status != self._last_status:
            self._last_status = response.status
            self._send(response)

    def end(self) -> None:
        """End the stream."""
        self._send(None)


class _ProbeThreads(ThreadPoolExecutor):
    """A pool that does not raise if the system starts no thread: grpcio would lose the thread that serves all RPCs."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:  # the call stays in the queue of the threads that exist
            left: Future[R] = Future()
            left.cancel()
            return left


class ThreadedHealth:
    """The health service of a server on threads. Checks run in two threads of their own.

    `check` and `watch` are plain functions, since grpcio looks for attributes of the function that it calls.
    """

    def __init__(self, source: _HealthSource) -> None:
        self._source = source
        self._watchers: set[_Watcher] = set()
        self._wake = threading.Event()
        self._has_ended = self._has_warned = False
        self._notifier: threading.Thread | None = None
        self._unsubscribe = source.on_change(self._wake.set)

        def check(request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
            return self._check(request.service, context)

        def watch(request: HealthCheckRequest, context: grpc.ServicerContext, send: _Send | None = None) -> None:
            if send is None:
                self._refuse_blocking_watch(context)
            else:
                self._watch(_Watcher(request.service, send), context)

        serve_in(check, _ProbeThreads(_CHECK_THREADS, "grpc-health"))
        serve_in(watch, _ProbeThreads(1, "grpc-health-watch"), is_pushed=True)
        self.check, self.watch = check, watch

    def _check(self, name: str, context: grpc.ServicerContext) -> HealthCheckResponse:
        report = self._source.report(name)
        if report is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _response(report)

    def _refuse_blocking_watch(self, context: grpc.ServicerContext) -> None:
        """Refuse a stream that an interceptor of others has made an ordinary one: each would hold a server's thread.

        A client that gets UNIMPLEMENTED goes on without the health of the server; any other status would stop its
        calls.
        """
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "streams of health are refused: an interceptor wraps grpc.health.v1.Health, so each of them would hold "
                "a thread of the server. Exclude the service from the interceptor; for OpenTelemetry: "
                "OTEL_PYTHON_GRPC_EXCLUDED_SERVICES=grpc.health.v1.Health"
            )
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "streams of health are not served behind this interceptor")

    def _watch(self, watcher: _Watcher, context: grpc.ServicerContext) -> None:
        """Add a watcher. Runs in one thread only, so that no two start the thread that notifies."""
        if self._has_ended:
            watcher.send(_NOT_SERVING)
            watcher.end()
            return
        self._watchers.add(watcher)
        if not context.add_callback(lambda: self._watchers.discard(watcher)):
            self._watchers.discard(watcher)
        if self._notifier is None and not self._start_notifier():
            self._watchers.discard(watcher)
            watcher.end()
        self._wake.set()

    def _start_notifier(self) -> bool:
        notifier = threading.Thread(target=self._notify, name="grpc-health-notifier", daemon=True)
        try:
            notifier.start()
        except RuntimeError:  # the system starts no more threads: the client opens its stream again
            return False
        self._notifier = notifier
        return True

    def _notify(self) -> None:
        while not self._has_ended:
            self._wake.clear()
            for watcher in tuple(self._watchers):
                watcher.send(_response(self._source.report(watcher.name)))
            self._wake.wait(self._source.interval if self._watchers else None)
        for watcher in tuple(self._watchers):
            watcher.send(_NOT_SERVING)
            watcher.end()

    def end(self) -> None:
        """Send NOT_SERVING to all streams, and end them."""
        self._has_ended = True
        self._unsubscribe()
        self._wake.set()


# On an event loop


_AioContext: TypeAlias = "grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]"


class AioHealth:
    """The health service of a server on an event loop. Each stream is a task that looks again after a change."""

    def __init__(self, source: _HealthSource) -> None:
        self._source = source
        self._has_ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._change = asyncio.Event()
        self._unsubscribe = source.on_change(self._wake_streams)

    async def check(self, request: HealthCheckRequest, context: _AioContext) -> HealthCheckResponse:
        """Answer once."""
        report = await self._source.areport(request.service)
        if report is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _response(report)

    async def watch(self, request: HealthCheckRequest, context: _AioContext) -> None:
        """Answer, and again after each change of the status."""
        self._loop = asyncio.get_running_loop()
        last_status: object = None
        while True:
            change, is_last = self._change, self._has_ended
            response = _response(await self._source.areport(request.service))
            if is_last:
                response = _NOT_SERVING
            if response.status != last_status:
                last_status = response.status
                await context.write(response)
            if is_last:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(change.wait(), self._source.interval)

    def _wake_streams(self) -> None:
        """Have all streams look again, from any thread."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and with it all streams
                loop.call_soon_threadsafe(self._set_change)

    def _set_change(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

    def end(self) -> None:
        """Send NOT_SERVING to all streams, and end them."""
        self._has_ended = True
        self._unsubscribe()
        self._wake_streams()
