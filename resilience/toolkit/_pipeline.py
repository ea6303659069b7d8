"""The pipeline of a name in a toolkit: it also shows the clients of that name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resilience.events import ForwardingEmitter
from resilience.pipeline import Pipeline

if TYPE_CHECKING:
    from resilience.events import Listener
    from resilience.policy import AroundPolicy, Policy
    from resilience.toolkit._clients import ClientGroup

__all__ = ("NamedPipeline",)


class NamedPipeline(Pipeline):
    """The pipeline that a toolkit returns for a name.

    It guards functions and blocks. The HTTP and gRPC clients of the name have circuits, limits and bulkheads for each
    host. `subscribe`, `snapshot` and `describe` include them.
    """

    def __init__(self, name: str, *policies: Policy | AroundPolicy) -> None:
        self._clients: ClientGroup | None = None
        self.client_events = ForwardingEmitter(self._forward)
        super().__init__(name, *policies)

    def show(self, clients: ClientGroup) -> None:
        """Include the clients of the name from now on."""
        self._clients = clients

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Send every event of the policies, and of those of the clients, to `listener`.

        Returns:
            A function that ends this.
        """
        ends = (super().subscribe(listener), self.client_events.subscribe(listener))

        def unsubscribe() -> None:
            for end in ends:
                end()

        return unsubscribe

    def describe(self) -> dict[str, Any]:
        """Return the description of the pipeline, and under `clients` that of the policies of its clients."""
        own, clients = super().describe(), self._clients
        return own if clients is None else {**own, "clients": clients.describe()}

    def snapshot(self) -> dict[str, Any]:
        """Return the state of the pipeline, and under `clients` that of the policies of its clients, by host."""
        own, clients = super().snapshot(), self._clients
        return own if clients is None else {**own, "clients": clients.snapshot()}

    def _forward(self) -> None:
        if self._clients is not None:
            self._clients.forward()
