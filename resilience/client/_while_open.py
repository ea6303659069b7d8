"""A place that is held for as long as the answer is being read, not only until it begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from resilience.bulkhead import Bulkhead
from resilience.policy import NO_RESULT, KeyedPolicy, Policy, PolicyBase, Slot

__all__ = ("WhileOpen", "while_open")

WhenClosed = Callable[[Any, Callable[[], None]], bool]


class WhileOpen(PolicyBase):
    """Settles a successful call when its result is closed, so that a bulkhead counts answers still being read.

    `when_closed(result, settle)` arranges for `settle` to be called once, and says whether it will be: False for a
    result that is complete already. The result must hold the only reference to `settle`: if the result is dropped
    unclosed, `settle` goes with it and gives the place back. Calls that fail are settled at once. Otherwise it is the
    policy it is given.
    """

    def __init__(self, policy: Policy, when_closed: WhenClosed) -> None:
        super().__init__()
        self.policy = policy
        self._when_closed = when_closed
        self.kind = getattr(policy, "kind", self.kind)
        for trait in ("events", "waits", "may_wait", "admit", "admit_blocking", "admit_awaiting"):
            if hasattr(policy, trait):
                setattr(self, trait, getattr(policy, trait))
        self.on_failure = policy.on_failure  # type: ignore[method-assign]  # a frame less, as for the traits above
        self.on_abandon = policy.on_abandon  # type: ignore[method-assign]  # see above

    @property
    def name(self) -> str:
        """The name of the policy."""
        return self.policy.name

    @name.setter
    def name(self, name: str) -> None:
        self.policy.name = name  # type: ignore[misc]  # Keyed names what can be named

    def join(self, pipeline: str) -> None:
        """Name an unnamed policy after the pipeline."""
        if (join := getattr(self.policy, "join", None)) is not None:
            join(pipeline)

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way, and no answer is being read."""
        return bool(getattr(self.policy, "is_idle", True))

    def on_success(self, permit: Any, result: Any, /) -> None:
        """Settle the permit when `result` is closed."""
        settle = _Settlement(self.policy, permit)
        if not self._when_closed(result, settle):
            settle()

    def describe(self) -> dict[str, Any]:
        """Return what the policy was told."""
        told: dict[str, Any] = getattr(self.policy, "describe", dict)()
        return told

    def snapshot(self) -> dict[str, Any]:
        """Return how the policy is right now."""
        figures: dict[str, Any] = getattr(self.policy, "snapshot", dict)()
        return figures

    def __repr__(self) -> str:
        return f"<WhileOpen {self.policy!r}>"


class _Settlement:
    """Gives a place back once: when it is called, at the latest when the garbage collector takes it.

    It does not refer to the result that holds it. A cycle would keep the place until the next full collection.
    The collector runs in any thread, between any two instructions; a bulkhead can take its places back there.
    """

    __slots__ = ("_held",)

    def __init__(self, policy: Policy, permit: Any) -> None:
        self._held = [(policy, permit)]

    def __call__(self) -> None:
        try:
            policy, permit = self._held.pop()
        except IndexError:  # settled before
            return
        policy.on_success(permit, NO_RESULT)

    __del__ = __call__


def while_open(policy: Any, when_closed: WhenClosed) -> Any:
    """Return `policy` as it is, but a bulkhead, or one per key, holding its places until results are closed."""
    if isinstance(policy, Bulkhead):
        return WhileOpen(policy, when_closed)
    if isinstance(policy, KeyedPolicy) and isinstance(policy.template, Bulkhead):
        return _EachWhileOpen(policy, when_closed)
    return policy


class _EachWhileOpen:
    """Policies by key, each of them held until results are closed."""

    def __init__(self, keyed: KeyedPolicy, when_closed: WhenClosed) -> None:
        self._keyed, self._when_closed = keyed, when_closed
        self.template = WhileOpen(cast("Policy", keyed.template), when_closed)
        for trait in ("kind", "events", "join", "describe", "snapshot"):
            if hasattr(keyed, trait):
                setattr(self, trait, getattr(keyed, trait))

    @property
    def name(self) -> str:
        return self._keyed.name

    def slot(self, /, *args: Any, **kwargs: Any) -> _OpenSlot:
        return _OpenSlot(self._keyed.slot(*args, **kwargs), self._when_closed)

    def per_call(self) -> _EachWhileOpen:
        for_any: Callable[[], KeyedPolicy] = getattr(self._keyed, "per_call", lambda: self._keyed)
        return _EachWhileOpen(for_any(), self._when_closed)


class _OpenSlot:
    """A key's slot. Its policy is asked for once for each place in a chain: then the call is composed."""

    __slots__ = ("_slot", "_when_closed", "compiled")

    def __init__(self, slot: Slot, when_closed: WhenClosed) -> None:
        self._slot, self._when_closed, self.compiled = slot, when_closed, slot.compiled

    @property
    def policy(self) -> WhileOpen:
        return WhileOpen(cast("Policy", self._slot.policy), self._when_closed)
