"""The clients of one name share their policies, and circuits, limits and bulkheads by host.

A client is a transport, an adapter or the interceptors of a channel. Programs make clients per request, so a client
owns no state: its circuits, limits and bulkheads belong to the toolkit, the name of the pipeline, and the host. The
other policies have no state of a host, and all clients of a name share them. The retry is the exception: each library
has errors of its own, so each has a retry of its own with the same options.

Hosts can come from the outside, in redirects and in URLs of users. A `Keyed` bounds their number: it drops the host
that was used least recently, but keeps circuits that are open and bulkheads with calls in flight.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from resilience._engine._steps import Member, Steps
from resilience._support.fork import renew_after_fork
from resilience.breaker import CircuitBreaker
from resilience.client import hedge_named
from resilience.events import Emitter, Event, EventLog
from resilience.keyed import Keyed, KeyedView
from resilience.pipeline import Pipeline
from resilience.retry import Retry

__all__ = ("ClientGroup", "ClientUse", "Host")

_KINDS_OF_A_HOST = frozenset({"breaker", "rate_limit", "bulkhead"})
"""Kinds of policies whose state describes one host."""
_MAX_PIPELINES = 1000
"""Pipelines that are kept. A dropped one is made again, with the same circuits, limits and bulkheads."""

Host: TypeAlias = Callable[..., Hashable] | str
"""A function of the arguments of a call that returns its host, or the one host of all calls."""


class ClientUse(NamedTuple):
    """How a client uses the policies of a name. Clients with equal uses share a pipeline."""

    host: Host
    retry_on: Callable[[Exception], bool] | type[Exception]
    """The errors of the library after which another attempt may succeed."""
    exclude: tuple[type[Exception], ...]
    """The errors of the library that say nothing about the host."""
    hedge: str
    """The name of the hedge, "" for that of the pipeline."""


class ClientGroup:
    """The policies of all clients of one name.

    Args:
        name: The name of the pipeline.
        make: Makes a policy of a configured kind for one host.
        kinds: The configured kinds, outermost first.
        place: Puts configured policies among those from code, and returns all of them.
        events: Emits the events of the policies that only clients have, from `forward` on.
        log: Decides which of these events are logged.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[str, str], Any],
        kinds: Iterable[str],
        place: Callable[[Iterable[Any]], tuple[Any, ...]],
        events: Emitter,
        log: EventLog,
    ) -> None:
        self._name, self._make, self._events, self._log = name, make, events, log
        self._excluded: tuple[type[Exception], ...] = ()
        configured = [self._by_host(kind) if kind in _KINDS_OF_A_HOST else make(kind, "") for kind in kinds]
        self._configured = configured
        self._policies = place(configured)
        self._pipelines: OrderedDict[ClientUse, Pipeline] = OrderedDict()
        self._forwarded: weakref.WeakSet[Emitter] = weakref.WeakSet()
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Replace the lock: another thread may have held it at the moment of the fork."""
        self._lock = threading.RLock()  # guards pipelines, emitters and exclusions; no code of the user runs under it

    def pipeline(self, use: ClientUse) -> Pipeline:
        """Return the pipeline of the clients with this use. It is made at the first call."""
        with self._lock:
            known = self._pipelines.get(use)
            if known is not None:
                self._pipelines.move_to_end(use)
                return known
            self._excluded = tuple(dict.fromkeys((*self._excluded, *use.exclude)))
            pipeline = Pipeline(self._name, *(self._of_use(policy, use) for policy in self._policies))
            pipeline.log_to(self._log)
            self._pipelines[use] = pipeline
            if len(self._pipelines) > _MAX_PIPELINES:
                self._pipelines.popitem(last=False)
        if self._events:
            self.forward()
        return pipeline

    def host_pipeline(self, host: str, configured: Iterable[Any]) -> Pipeline:
        """Return a pipeline for functions that call one host: with the clients' policies of that host.

        Args:
            host: The host, as the clients name it.
            configured: The policies that functions have. Those of a kind that is one for each host are left out.
        """
        others = {policy.kind: policy for policy in configured}
        policies = [self._of_function(policy, host, others) for policy in self._policies]
        pipeline = Pipeline(self._name, *(policy for policy in policies if policy is not None))
        pipeline.log_to(self._log)
        return pipeline

    def _of_function(self, policy: Any, host: str, others: Mapping[str, Any]) -> Member | None:
        if not self._is_configured(policy):
            return policy  # type: ignore[no-any-return]  # of the user's code: as it is
        return KeyedView(policy, host) if isinstance(policy, Keyed) else others.get(policy.kind)

    def snapshot(self) -> list[dict[str, Any]]:
        """Return the state of each policy that clients have in use, as plain data."""
        return [{"kind": steps.kind, "name": steps.name, **steps.snapshot()} for steps in self._in_use()]

    def describe(self) -> list[dict[str, Any]]:
        """Return kind, name, options and their sources of each policy that clients have in use, as plain data."""
        return [{"kind": steps.kind, "name": steps.name, **steps.describe()} for steps in self._in_use()]

    def _by_host(self, kind: str) -> Keyed:
        def make(host: str) -> Any:
            policy = self._make(kind, host)
            if isinstance(policy, CircuitBreaker):
                policy.add_excluded_exception(self._is_excluded)
            return policy

        template = self._make(kind, "template")
        return Keyed(make, _itself, name=f"{self._name}.{template.kind}")

    def _is_excluded(self, error: Exception) -> bool:
        return isinstance(error, self._excluded)

    def _of_use(self, policy: Any, use: ClientUse) -> Member:
        if not self._is_configured(policy):
            return policy  # type: ignore[no-any-return]  # of the user's code: as it is
        if isinstance(policy, Keyed):
            return KeyedView(policy, use.host)
        if isinstance(policy, Retry):
            options = {field: getattr(policy.options, field) for field in policy.options.fields()}
            retry = Retry(on=use.retry_on, **options)
            retry.sources = policy.sources
            return retry
        return hedge_named(policy, use.hedge) if use.hedge else policy

    def _in_use(self) -> list[Steps]:
        with self._lock:
            pipelines = list(self._pipelines.values())
        found = [Steps.of(policy) for pipeline in pipelines for policy in pipeline.policies]
        # The views of one `Keyed` share its events.
        return list({id(steps.policy if steps.events is None else steps.events): steps for steps in found}.values())

    def forward(self) -> None:
        """Forward the events of all policies from now on. Without a listener no event is built."""
        given = [policy for policy in self._policies if not self._is_configured(policy)]
        emitters = [steps.events for steps in self._in_use() if steps.policy not in given]
        for emitter in emitters:
            with self._lock:
                is_new = emitter is not None and emitter not in self._forwarded
                if emitter is not None:
                    self._forwarded.add(emitter)
            if emitter is not None and is_new:
                emitter.subscribe(self._pass_on)

    def _is_configured(self, policy: object) -> bool:
        """Whether a policy was made here. Others are of the user's code, and in the pipeline of the name as well."""
        return any(policy is each for each in self._configured)

    def _pass_on(self, event: Event) -> None:
        self._events.forward(event, event.policy)


def _itself(host: str) -> str:
    return host
