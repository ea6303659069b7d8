"""The engine's record of a policy, made once when a pipeline is composed.

`Steps.of` is the only code that looks for the members that a policy may have or not have. Everything else in the engine
reads the record: an absent step is None, and costs a call nothing. To wrap a policy, replace steps in its record::

    dataclasses.replace(Steps.of(policy), on_success=settle_later)
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from resilience.errors import ConfigurationError
from resilience.events import Emitter
from resilience.policy import AroundPolicy, Policy, PolicyBase, RetryAfter, Substitute, Verdict

__all__ = (
    "TRANSPARENT",
    "AwaitedCall",
    "Call",
    "KeyedPolicy",
    "Member",
    "Slot",
    "Steps",
    "events_of",
    "is_idle",
    "is_refusing",
)

Call: TypeAlias = Callable[..., Any]
"""A guarded function, or a compiled call around it: arguments and results pass through the engine unread."""
AwaitedCall: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]
Facts: TypeAlias = Mapping[str, object]
Member: TypeAlias = "Policy | AroundPolicy | KeyedPolicy | Steps"
"""An element of a pipeline."""


class Slot(Protocol):
    """The policy of one key, and the calls that the engine has compiled with it."""

    @property
    def policy(self) -> Policy | AroundPolicy:
        """The policy of this key."""
        ...

    @property
    def compiled(self) -> dict[Callable[[], object], Call]:
        """A dictionary that belongs to the engine: it adds and removes its entries."""
        ...


@runtime_checkable
class KeyedPolicy(Protocol):
    """Many policies of one kind: the arguments of a call choose the policy that guards it."""

    @property
    def name(self) -> str:
        """A metric label: stable, and one of few."""
        ...

    @property
    def template(self) -> Policy | AroundPolicy:
        """A policy of that kind. It guards no call: the engine reads its steps."""
        ...

    def slot(self, /, *args: Any, **kwargs: Any) -> Slot:
        """Return the slot for a call with these arguments."""
        ...


class _HasFastPermit(Protocol):
    @property
    def fast_permit(self) -> object: ...


class _Around(Protocol):
    def __call__(self, call: Call, /) -> Call: ...


class _AroundAsync(Protocol):
    def __call__(self, call: Callable[..., Awaitable[Any]], /) -> AwaitedCall: ...


def events_of(policy: object) -> Emitter | None:
    """Return the events of a policy, None if it has none. A record of all steps would cost a new key 5 us."""
    events = getattr(policy, "events", None)
    return events if isinstance(events, Emitter) else None


def is_idle(policy: object) -> bool:
    """Return whether nothing is lost if `policy` is dropped now: no call uses it, and no operator has set it."""
    return bool(getattr(policy, "is_idle", True))


def is_refusing(policy: object) -> bool:
    """Return whether `policy` refuses calls, now or soon, that a new policy in its place would admit."""
    return bool(getattr(policy, "is_refusing", False))


def _nothing(_permit: object, /) -> None:
    """Give nothing back."""


def _stands(_permit: object, _error: Exception, /) -> None:
    """Let the error stand."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)  # not frozen: 5 us more for each new key
class Steps:
    """All that the engine knows of one policy.

    A policy is one of three kinds. It settles permits (`admit`, `on_success`, `on_failure`, `on_abandon`), or it owns
    the call (`around`, `around_async`), or it is one policy for each key (`slot`, `template`). A policy that needs
    fewer steps than its class defines says so in its method `choose_steps`, which gets the record of all its members
    and returns the one to use.
    """

    switch: ClassVar[Callable[[Steps], Steps] | None] = None
    """Changes the record of every policy of the process. `resilience.testing` switches policies off by it."""

    policy: Policy | AroundPolicy | KeyedPolicy
    """The policy: its name is read when it is needed, because a pipeline may name it later."""

    # Policies that settle permits.
    admit: Callable[[], object] | None = None
    """Returns the permit, or raises a refusal. None: every call is admitted, and its permit is None."""
    may_wait: bool = False
    """Whether `admit` may return a `Wait`."""
    admit_blocking: Callable[[], object] | None = None
    """Used instead of `admit` for a blocking call; it may block the thread."""
    admit_awaiting: Callable[[], Awaitable[object]] | None = None
    """Used instead of `admit` for an awaited call."""
    fast_permit: _HasFastPermit | None = None
    """The object whose attribute `fast_permit` is read before each call; `admit` is asked only while that is None."""
    on_success: Callable[[Any, Any], Verdict] | None = None
    """Settles a normal return. None: the permit needs no settling then, and the result stands."""
    on_failure: Callable[[Any, Exception], Verdict] = _stands
    on_abandon: Callable[[Any], object] = _nothing
    settles_once: bool = False
    """Whether `on_abandon` ignores a permit that is settled already."""
    no_more_attempts: Callable[[Any], object] | None = None
    """Called before a generator's outcome is settled, if its items are out: it cannot be started again."""
    retries: bool = False
    """Whether a verdict may be `RetryAfter`."""
    awaits: bool = False
    """Whether a verdict may be `Pending`."""

    # Policies that own the call.
    around: _Around | None = None
    around_async: _AroundAsync | None = None
    around_nested: _Around | None = None
    """Used instead of `around` if other policies stand outside; it may raise a `Substitute`."""
    around_nested_async: _AroundAsync | None = None
    run_in_threads: Callable[[Call], AwaitedCall] | None = None
    """Used instead of `around_async`: the call, and all policies inside, block in a thread of the policy."""
    scope: Callable[[], AbstractAsyncContextManager[object]] | None = None
    """Returns a context manager around an `async with` block."""
    accepts_leading_args: bool = False
    """Whether the four `around` steps take `leading_args`, the number of arguments that are not the call's own."""

    # Policies for each key.
    slot: Callable[..., Slot] | None = None
    """Returns the slot that a call with these arguments uses."""
    template: Steps | None = None
    """The steps that the policy of each key has; no call is made through these."""
    adapt: Callable[[Steps], Steps] | None = None
    """Changes the steps of the policy of each key."""

    # When a function is wrapped and a pipeline is composed.
    applies_to: Callable[[object], bool] | None = None
    """Whether the policy guards this function. None: it guards every function."""
    join: Callable[[str], object] | None = None
    """Takes the name of the pipeline, before names are compared: a policy without a name derives one."""
    bind: Callable[[tuple[Member, ...]], object] | None = None
    """Takes all policies of the pipeline, once they have their names."""
    events: Emitter | None = None
    describe: Callable[[], Facts] = dict
    snapshot: Callable[[], Facts] = dict

    @staticmethod
    def of(policy: Member) -> Steps:
        """Return the record of `policy`; a record is its own."""
        if isinstance(policy, Steps):
            return policy
        found = _found(policy)
        choose: Callable[[Steps], Steps] | None = getattr(policy, "choose_steps", None)
        chosen = found if choose is None else choose(found)
        return chosen if Steps.switch is None else Steps.switch(chosen)

    @property
    def name(self) -> str:
        """The name of the policy."""
        return self.policy.name

    @property
    def kind(self) -> str:
        """The kind of the policy: that of a built-in one, else the name of its class."""
        return str(getattr(self.policy, "kind", type(self.policy).__name__))

    def __repr__(self) -> str:
        return f"<Steps of {self.policy!r}>"

    @property
    def on_interrupt(self) -> Callable[[Any], object]:
        """Gives a permit back after a step raised; does nothing if that step may have settled the permit."""
        return self.on_abandon if self.settles_once else _nothing

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost if the policy is dropped now."""
        return is_idle(self.policy)

    @property
    def owns_call(self) -> bool:
        """Whether the policy, or the policy of each key, decides how the call runs."""
        return self.around is not None if self.template is None else self.template.owns_call

    @property
    def may_substitute(self) -> bool:
        """Whether the policy raises a `Substitute` if others stand outside."""
        return self.around_nested is not None if self.template is None else self.template.may_substitute

    def blocking(self) -> Steps:
        """Return this record; raise `ConfigurationError` if the policy awaits its verdicts: a blocking call cannot."""
        if self.awaits:
            reason = "it awaits its decisions; guard a coroutine function, or use wrap_async"
            raise ConfigurationError(f"{self.name!r} cannot guard a blocking call: {reason}")
        return self

    def settle(self, permit: object, given: Substitute) -> Verdict:
        """Settle `permit` by the outcome that a substitute stands for; return the verdict."""
        error = given.error
        if error is None:
            return None if self.on_success is None else self.on_success(permit, given.result)
        verdict = self.on_failure(permit, error)
        if verdict is not None:
            self.discard(error, verdict)
        return verdict

    def discard(self, error: Exception, verdict: Verdict) -> None:
        """Release the resources of a failed attempt if `verdict` makes another one: the caller will not see its error.

        An error that holds a resource, such as the connection of a failed answer, has a method `discard()`. It is
        called before the wait, so that the resource is not held during the wait.
        """
        release: Callable[[], object] | None = getattr(error, "discard", None)
        if release is not None and isinstance(verdict, RetryAfter):
            try:
                release()
            except BaseException:
                self.on_abandon(verdict.permit)
                raise

    def of_slot(self, slot: Slot) -> Steps:
        """Return the steps of the policy of one key."""
        steps = Steps.of(slot.policy)
        return steps if self.adapt is None else self.adapt(steps)

    def adapted(self, adapt: Callable[[Steps], Steps]) -> Steps:
        """Return this record with the policy changed by `adapt`: the policy of each key, if there is one per key."""
        if self.template is None:
            return adapt(self)
        before = self.adapt
        both = adapt if before is None else lambda steps: adapt(before(steps))
        return replace(self, template=adapt(self.template), adapt=both)

    def per_call(self) -> Steps:
        """Return the steps for calls whose first argument is the function to call.

        `pipeline.call(fn, ...)` compiles one chain for every function: policies that look at arguments have to know
        that the first one is not the call's own.
        """
        if self.slot is not None:
            return replace(self.adapted(Steps.per_call), slot=functools.partial(_slot_without_function, self.slot))
        if not self.accepts_leading_args:
            return self
        return replace(
            self,
            around=_after_function(self.around),
            around_async=_after_function(self.around_async),
            around_nested=_after_function(self.around_nested),
            around_nested_async=_after_function(self.around_nested_async),
        )


def _slot_without_function(slot: Callable[..., Slot], _function: object, /, *args: Any, **kwargs: Any) -> Slot:
    return slot(*args, **kwargs)


def _after_function(step: Callable[..., Any] | None) -> Any:
    return None if step is None else functools.partial(step, leading_args=1)


def _found(policy: Any) -> Steps:
    """Return the record of all members that `policy` has, made in one go: a keyed policy needs it for each new key."""
    if hasattr(policy, "slot"):
        members = _one_per_key(policy)
    else:
        members = _owning(policy) if hasattr(policy, "around") else _settling(policy)
    members.setdefault("retries", bool(getattr(policy, "retries", False)))
    members.setdefault("applies_to", getattr(policy, "applies_to", None))
    return Steps(
        policy=policy,
        join=getattr(policy, "join", None),
        bind=getattr(policy, "bind", None),
        events=getattr(policy, "events", None),
        describe=getattr(policy, "describe", dict),
        snapshot=getattr(policy, "snapshot", dict),
        **members,
    )


def _one_per_key(policy: KeyedPolicy) -> dict[str, Any]:
    template = Steps.of(policy.template)
    return {
        "slot": policy.slot,
        "template": template,
        "retries": template.retries,
        "awaits": template.awaits,
        "applies_to": getattr(policy, "applies_to", None) or template.applies_to,
    }


def _owning(policy: AroundPolicy) -> dict[str, Any]:
    return {
        "around": policy.around,
        "around_async": policy.around_async,
        "around_nested": getattr(policy, "around_nested", None),
        "around_nested_async": getattr(policy, "around_nested_async", None),
        "run_in_threads": getattr(policy, "run_in_threads", None),
        "scope": getattr(policy, "scope", None),
        "accepts_leading_args": bool(getattr(policy, "accepts_leading_args", False)),
    }


def _settling(policy: Policy) -> dict[str, Any]:
    waits = getattr(policy, "waits", False)
    return {
        "admit": _overridden(policy, "admit"),
        "may_wait": bool(getattr(policy, "may_wait", False)),
        "admit_blocking": getattr(policy, "admit_blocking", None) if waits else None,
        "admit_awaiting": getattr(policy, "admit_awaiting", None) if waits else None,
        "fast_permit": policy if hasattr(policy, "fast_permit") else None,
        "on_success": _overridden(policy, "on_success"),
        "on_failure": policy.on_failure,
        "on_abandon": policy.on_abandon,
        "settles_once": bool(getattr(policy, "settles_once", False)),
        "no_more_attempts": getattr(policy, "no_more_attempts", None),
        "awaits": bool(getattr(policy, "awaits", False)),
    }


def _overridden(policy: Policy, step: str) -> Callable[..., Any] | None:
    """Return a step, or None if the policy has inherited it from `PolicyBase`, where it does nothing."""
    method: Callable[..., Any] = getattr(policy, step)
    return None if getattr(method, "__func__", None) is getattr(PolicyBase, step) else method


TRANSPARENT = Steps.of(PolicyBase())
"""The steps of a policy that does nothing."""
