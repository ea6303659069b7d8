"""Policies in order, compiled once per function.

The first policy listed is outermost. The order that fits most calls: fallback, cache, single-flight, retry, hedge,
breaker, rate limit, bulkhead, thread pool, timeout - so that each attempt is judged, limited and timed on its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, cast

from resilience._engine._chain import Chain, GuardedBlock
from resilience._engine._misuse import POLICIES, check_decorated, check_name, no_policy, refused_block
from resilience._engine._steps import Member, Steps
from resilience._support.fixed import Fixed
from resilience.clock import SYSTEM_SLEEPER, Sleeper
from resilience.errors import ConfigurationError
from resilience.events import LISTENER, Emitter, EventLog
from resilience.options import Listing, Opaque, Text, checked

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilience.events import Listener

__all__ = ("GuardedBlock", "Pipeline")

NAME = Text("a name of letters, digits and . _ - /", pattern=r"[A-Za-z0-9][A-Za-z0-9._/-]*", longest=100)
_LISTENERS = Listing(LISTENER)
_SLEEPER = Opaque(
    "an object with the methods sleep(seconds) and asleep(seconds)",
    lambda value: all(callable(getattr(value, method, None)) for method in ("sleep", "asleep")),
)


class Pipeline(Fixed, Chain):
    """Guards the calls to one dependency by policies, the first one outermost.

    Use it as a decorator on `def`, `async def`, methods, generator and async generator functions; as
    `pipeline.call(fn, ...)` and `await pipeline.acall(fn, ...)`; or as `with pipeline.guard():` and
    `async with pipeline.guard():` around code that cannot be wrapped.

    Args:
        name: Letters, digits and `. _ - /`, at most 100. Policies without a name are named after it.
        policies: Policies, each of them one object with a name of its own.
        listeners: Functions that take each `Event` of the policies.
        sleeper: An object that sleeps between attempts: `sleep(seconds)` for blocking calls, `asleep(seconds)` for
            awaited ones. By default the real time passes.

    Raises:
        ConfigurationError: Two policies have the same name, or an element is not a policy.

    Example:
        >>> from resilience import CircuitBreaker, Pipeline, Retry
        >>> payments = Pipeline("payments", Retry(attempts=3), CircuitBreaker())
        >>> payments.call(str.upper, "paid")
        'PAID'
        >>> [policy.name for policy in payments.policies]
        ['payments.retry', 'payments.breaker']
    """

    def __init__(
        self,
        name: str,
        *policies: Member,
        listeners: tuple[Listener, ...] | list[Listener] = (),
        sleeper: Sleeper = SYSTEM_SLEEPER,
    ) -> None:
        label: object = name
        if not isinstance(label, str):
            check_name(label)
        for policy in cast("tuple[Any, ...]", policies):
            if isinstance(policy, type) or not isinstance(policy, POLICIES):
                raise no_policy(name, policy)
        super().__init__(checked(name, "Pipeline.name", NAME), policies, checked(sleeper, "Pipeline.sleeper", _SLEEPER))
        for steps in self._steps:
            if steps.join is not None:
                steps.join(name)
        _check_names(name, [steps.name for steps in self._steps])
        for steps in self._steps:
            if steps.bind is not None:
                steps.bind(policies)
        for listener in checked(listeners, "Pipeline.listeners", _LISTENERS):
            self.subscribe(listener)
        self._is_made = True

    if not TYPE_CHECKING:  # a type checker refuses these lines by itself

        def __call__(self, *functions: Any, **options: Any) -> Any:
            """Guard a function; refuse `@pipeline()`, and options that belong to a policy."""
            check_decorated(self.name, functions, options)
            return super().__call__(*functions)

        def __enter__(self) -> NoReturn:
            """Refuse `with pipeline:`."""
            raise refused_block(self.name)

        __exit__ = __aenter__ = __aexit__ = __enter__

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Send every event of the policies to `listener`; the function returned ends this."""
        ends = [steps.events.subscribe(listener) for steps in self._steps if steps.events is not None]

        def unsubscribe() -> None:
            for end in ends:
                end()

        return unsubscribe

    def log_to(self, log: EventLog) -> None:
        """Log the events of the policies as `log` says. The toolkit calls this for its pipelines."""
        for steps in self._steps:
            if isinstance(steps.events, Emitter):
                steps.events.log_to(log)

    def with_policies(self, *policies: Member) -> Pipeline:
        """Return a pipeline with this name and sleeper that has `policies` in place of its own."""
        return Pipeline(self.name, *policies, sleeper=self._sleeper)

    def describe(self) -> dict[str, Any]:
        """Return the name, and the kind, name, options and their sources of each policy, as plain data."""
        return {"name": self.name, "policies": [{**_named(steps), **steps.describe()} for steps in self._steps]}

    def snapshot(self) -> dict[str, Any]:
        """Return the present state of each policy as plain data: states, counts, rates, remaining times.

        It changes nothing, sends nothing and takes no permit.
        """
        return {"name": self.name, "policies": [{**_named(steps), **steps.snapshot()} for steps in self._steps]}

    def __repr__(self) -> str:
        inside = "".join(f", {policy!r}" for policy in self.policies)
        return f"Pipeline({self.name!r}{inside})"


def _named(steps: Steps) -> dict[str, str]:
    """Return the kind and the name of a policy, which need not describe itself by them."""
    return {"kind": steps.kind, "name": steps.name}


def _check_names(name: str, names: list[str]) -> None:
    for duplicate in sorted({known for known in names if names.count(known) > 1}):
        reason = "events, metrics and settings could not tell them apart"
        raise ConfigurationError(f"pipeline {name!r} has two policies named {duplicate!r}: {reason}; name one of them")
