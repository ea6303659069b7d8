"""The pipelines of a toolkit by name, for functions and for clients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resilience.config._names import fold, variable
from resilience.config._problems import NoPipeline
from resilience.config._schema import DEFAULT
from resilience.config._warning import warn
from resilience.errors import ConfigurationError, Problem
from resilience.events import ForwardingEmitter
from resilience.pipeline import Pipeline
from resilience.toolkit._machine import compose
from resilience.toolkit._names import check_name
from resilience.toolkit._parts import NamedParts
from resilience.toolkit._policies import ConfiguredPolicies

if TYPE_CHECKING:
    from resilience.config import Config
    from resilience.events import EventLog, Listener
    from resilience.policy import AroundPolicy, Policy
    from resilience.toolkit._clients import ClientGroup, ClientUse

__all__ = ("NamedPipeline", "PipelinesByName")

_PIPELINE, _CLIENTS = "pipeline", "clients"


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


class PipelinesByName:
    """Makes the pipeline of a name, and the group of its clients.

    Args:
        config: The configuration.
        policies: Makes the policies of a pipeline.
        parts: Keeps pipelines and groups.
        log: Decides which events of the policies are logged.
    """

    def __init__(self, config: Config, policies: ConfiguredPolicies, parts: NamedParts, log: EventLog) -> None:
        self._config, self._policies, self._parts, self._log = config, policies, parts, log

    def pipeline(self, name: str, policies: tuple[Policy | AroundPolicy, ...], host: str | None) -> Pipeline:
        """Return the pipeline for functions; see `Resilience.pipeline`."""
        check_name(_PIPELINE, name)
        if host is not None and policies:
            raise ConfigurationError([Problem("host", host, "no host beside policies")])
        if not policies:
            self._report_unguarded(name)
        pipeline = self._named(name, policies)
        return pipeline if host is None else self._group(name).host_pipeline(host, self._policies.of_pipeline(name))

    def existing(self, name: str) -> Pipeline:
        """Return the pipeline for functions, if it can guard; see `Resilience.existing_pipeline`."""
        check_name(_PIPELINE, name)
        if (problem := self._problem_with(name)) is not None:
            raise ConfigurationError([problem])
        return self._named(name, ())

    def of_client(self, name: str, use: ClientUse) -> Pipeline:
        """Return the pipeline of a client; see `Resilience.client_pipeline`."""
        check_name(_PIPELINE, name)
        return self._group(name).pipeline(use)

    def _named(self, name: str, policies: tuple[Policy | AroundPolicy, ...]) -> NamedPipeline:
        def build() -> NamedPipeline:
            pipeline = NamedPipeline(name, *compose(policies, self._policies.of_pipeline(name)))
            pipeline.log_to(self._log)
            return pipeline

        return self._parts.named(_PIPELINE, name, build, policies)

    def _group(self, name: str) -> ClientGroup:
        """Return what the clients of this name share. Policies from code stand as they are, without client defaults."""
        pipeline = self._named(name, ())

        def build() -> ClientGroup:
            from resilience.toolkit._clients import ClientGroup as Group  # noqa: PLC0415 - imported by services with clients

            given = self._parts.given(_PIPELINE, name)
            kinds = self._config.pipeline(name) if given else self._config.client_pipeline(name)
            make = self._policies.of_function if given else self._policies.of_client
            place = functools.partial(compose, given)
            return Group(pipeline.name, functools.partial(make, name), kinds, place, pipeline.client_events, self._log)

        group = self._parts.named(_CLIENTS, name, build)
        pipeline.show(group)
        return group

    def _report_unguarded(self, name: str) -> None:
        """Warn that a pipeline guards nothing because nothing is configured; raise if the configuration is strict."""
        problem = self._problem_with(name)
        if problem is None or self._parts.has(_CLIENTS, name):  # with clients, the pipeline shows their state
            return
        if self._config.is_strict:
            raise ConfigurationError([problem])
        switch = variable((_PIPELINE, fold(name), "enabled"))
        warn(f"{problem}, so it guards nothing. {switch}=false says that this is meant; RESILIENCE_STRICT refuses it")

    def _problem_with(self, name: str) -> NoPipeline | None:
        """Return the problem with the name of a pipeline that is not configured, inherits nothing, and is empty."""
        configured = self._config.pipelines
        built: list[Any] = self._parts.of(_PIPELINE)
        given = {fold(pipeline.name): pipeline.name for pipeline in built if pipeline.policies}
        if DEFAULT in configured or fold(name) in {*configured, *given}:
            return None
        return NoPipeline(name, given | {known: known for known in configured})
