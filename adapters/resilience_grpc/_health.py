"""The standard health service of gRPC, answered by the toolkit's own checks and lifecycle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2

from resilience import Resilience
from resilience.health import Report
from resilience.options import seconds

__all__ = ("Services", "add_health", "health_of")

_USUAL = {"": "ready", "readiness": "ready", "liveness": "live", "startup": "startup"}

Answer = health_pb2.HealthCheckResponse


class Ended(Protocol):
    """A health service that can let go of whoever watches it."""

    def end(self) -> None:
        """Tell watchers that nothing is served any more, and end their streams."""
        ...


_known: WeakKeyDictionary[Any, tuple[Resilience, Ended]] = WeakKeyDictionary()


def add_health(
    server: grpc.Server | grpc.aio.Server,
    resilience: Resilience | None = None,
    *,
    services: Iterable[str] | Mapping[str, str] = (),
    interval: float | str | timedelta = 1.0,
) -> Resilience:
    """Have `server` answer `grpc.health.v1.Health`, and return the toolkit whose checks answer (by default from_env).

    NOT_SERVING until `resilience.lifecycle` is ready, while a check of readiness fails, and from the drain on. The
    empty name, and the names in `services`, stand for readiness; a mapping gives each name a group of checks of its
    own. `liveness`, `readiness` and `startup` are known in any case, as Kubernetes' probes may ask for them. Whoever
    watches is told of a drain at once and of everything else within `interval`. No thread of the server is needed.
    Raises `ConfigurationError` for a group without checks.
    """
    toolkit = Resilience.of(resilience)
    toolkit.health.attach(toolkit.lifecycle)
    answering = Services(toolkit, services, seconds(interval, "interval", above=True))
    if isinstance(server, grpc.aio.Server):
        from resilience_grpc._health_aio import AioHealth as Kind  # noqa: PLC0415 - one of the two is wanted
    else:
        from resilience_grpc._health_sync import ThreadedHealth as Kind  # type: ignore[assignment]  # noqa: PLC0415 - as above
    service = Kind(answering)
    server.add_generic_rpc_handlers((_handlers(service.check, service.watch),))
    _known[server] = toolkit, service
    return toolkit


def health_of(server: Any) -> tuple[Resilience, Ended] | None:
    """Return what `add_health` gave this server."""
    return _known.get(server)


def _handlers(check: Callable[..., Any], watch: Callable[..., Any]) -> grpc.GenericRpcHandler:
    read, write = health_pb2.HealthCheckRequest.FromString, Answer.SerializeToString
    methods = {
        "Check": grpc.unary_unary_rpc_method_handler(check, read, write),
        "Watch": grpc.unary_stream_rpc_method_handler(watch, read, write),
    }
    return grpc.method_handlers_generic_handler(health.SERVICE_NAME, methods)


class Services:
    """Which names may be asked for, and what is looked at for each."""

    def __init__(self, resilience: Resilience, services: Iterable[str] | Mapping[str, str], interval: float) -> None:
        self.health, self.lifecycle = resilience.health, resilience.lifecycle
        self.interval = interval
        named = services if isinstance(services, Mapping) else dict.fromkeys(services, "ready")
        self._groups = {**_USUAL, **named}
        for group in self._groups.values():
            self.health.names(group)  # refuses a group nobody knows

    def group_of(self, name: str) -> str | None:
        """Return the group of checks behind a name; None for a name nobody gave."""
        return self._groups.get(name)

    def on_change(self, tell: Callable[[], object]) -> Callable[[], None]:
        """Have `tell` called, in any thread, when the lifecycle moves on; the function returned ends that."""
        return self.lifecycle.events.subscribe(lambda _event: tell())


def answer_of(report: Report | None) -> Answer:
    """Return what a report comes to; None stands for a name nobody gave."""
    if report is None:
        return Answer(status=Answer.SERVICE_UNKNOWN)
    return Answer(status=Answer.SERVING if report.ok else Answer.NOT_SERVING)
