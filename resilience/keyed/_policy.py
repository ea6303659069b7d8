"""The policy that is many: one per key, made when the key is first seen."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

from resilience._support.fork import renew_after_fork
from resilience._support.keys import bounded_key
from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter, Event
from resilience.keyed._gathering import Gathering
from resilience.keyed._machine import Recent
from resilience.keyed._options import KeyedOptions
from resilience.options import CLOCK, checked, is_plain_callable
from resilience.policy import AroundPolicy, Named, Policy

__all__ = ("Keyed",)

P = ParamSpec("P")
R = TypeVar("R")
AnyPolicy = Policy | AroundPolicy


class KeySlot:
    """The policy of one key, and the calls composed with it so far."""

    __slots__ = ("compiled", "is_heard", "policy")

    def __init__(self, policy: AnyPolicy) -> None:
        self.policy = policy
        self.is_heard = False
        """Whether its policy's events are passed on."""
        self.compiled: dict[Any, Callable[..., Any]] = {}


class Keyed(Named):
    """Gives each key a policy of its own: a circuit per host, a bulkhead per tenant, a limit per method.

    `key` takes the arguments of the call and returns something hashable; `make` takes the key as text and returns a
    new policy, always of one kind. Text longer than 256 characters is kept as its hash.

    At most `max_keys` keys are remembered, each until it has not been used for `idle` (a duration): then its policy is
    forgotten with its figures, and the key starts afresh. A policy that says it is not idle is never forgotten (a
    bulkhead with calls under way, a timeout or hedge with threads at work, a breaker that an operator has set); only
    such ones can make it more than `max_keys`. Blocks (`guard()`) have no arguments and cannot be guarded. Raises
    `ConfigurationError` naming every option that is wrong.
    """

    def __init__(
        self,
        make: Callable[[str], AnyPolicy],
        key: Callable[..., Hashable],
        *,
        max_keys: int = 1000,
        idle: float | str | timedelta = "10m",
        name: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        super().__init__(name)
        self.options = KeyedOptions.of(max_keys=max_keys, idle=cast("float", idle))
        for option, function in (("make", make), ("key", key)):
            if not is_plain_callable(function) or isinstance(function, AnyPolicy):
                raise ConfigurationError([Problem(option, function, "a function (not a coroutine function)")])
        self._make, self._key = make, key
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self.template = self._checked(make("template"))
        self.kind = str(getattr(self.template, "kind", "keyed"))
        for trait in ("retries", "awaits", "applies_to"):
            if hasattr(self.template, trait):
                setattr(self, trait, getattr(self.template, trait))
        self._slots: Recent[KeySlot] = Recent(self.options.max_keys, self.options.idle, _is_busy)
        self.events = Gathering(self._forward_all)
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Keep what was learnt, under a lock nobody holds."""
        # Guards the slots; neither `key` nor `make` runs under it. Re-entrant, for finalizers that make calls: in the
        # midst of a change they may look at the slots, and change nothing.
        self._lock = threading.RLock()
        self._is_at_work = False

    def slot(self, /, *args: Any, **kwargs: Any) -> KeySlot:
        """Return the slot of a call with these arguments, made if there is none."""
        key = self._key(*args, **kwargs) if kwargs else self._key(*args)
        with self._lock:
            if self._is_at_work:
                slot = self._slots.peek(key)
            else:  # `_change`, inlined
                self._is_at_work = True
                try:
                    slot = self._slots.use(key, self._clock())
                finally:
                    self._is_at_work = False
        if slot is not None:
            return slot
        bounded = _bounded(key)  # only now: a key that is too long is never found
        return self._new_slot(bounded) if bounded is key else self._slot_of(bounded)

    def _slot_of(self, key: Hashable) -> KeySlot:
        with self._lock:
            slot = self._slots.peek(key) if self._is_at_work else self._change(self._slots.use, key, self._clock())
        return self._new_slot(key) if slot is None else slot

    def _known(self) -> list[tuple[Hashable, KeySlot]]:
        return [] if self._is_at_work else self._change(lambda: list(self._slots.items()))

    def _change(self, change: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        self._is_at_work = True
        try:
            return change(*args, **kwargs)
        finally:
            self._is_at_work = False

    def get(self, key: Hashable) -> AnyPolicy | None:
        """Return the policy of `key` if it is remembered: to open a circuit by hand, or to look at it."""
        with self._lock:
            slot = self._slots.peek(_bounded(key))
        return None if slot is None else slot.policy

    def __len__(self) -> int:
        return len(self._slots)

    def describe(self) -> dict[str, Any]:
        """Return what this is and what each key's policy was told, as plain data."""
        each = self.template.describe()["options"] if isinstance(self.template, Named) else {}
        return {**super().describe(), "each": each}

    def snapshot(self) -> dict[str, Any]:
        """Return how each key's policy is right now, by the key as text, least recently used first.

        Keys of several types that look alike as text, 1 and "1", are shown with their types.
        """
        with self._lock:
            known = self._known()
        texts = _told_apart([key for key, _ in known])
        figures: list[dict[str, Any]] = [getattr(slot.policy, "snapshot", dict)() for _, slot in known]
        return {"keys": len(known), "each": dict(zip(texts, figures, strict=True))}

    def _new_slot(self, key: Hashable) -> KeySlot:
        policy = self._checked(self._make(_text(key)))
        if isinstance(policy, Named):
            cast("Named", policy).name = self.name
        made = KeySlot(policy)
        with self._lock:
            slot = made if self._is_at_work else self._change(self._slots.add, key, made, self._clock())
        if slot is made and self.events:
            self._forward(key, slot)
        return slot

    def _checked(self, policy: Any) -> AnyPolicy:
        if hasattr(self, "template") and type(policy) is type(self.template):
            return policy  # as the template, which has been looked at
        kind = AroundPolicy if isinstance(getattr(self, "template", policy), AroundPolicy) else Policy
        if isinstance(policy, type) or not isinstance(policy, kind):
            raise ConfigurationError([Problem("make", policy, "a function that returns a policy, always of one kind")])
        return policy

    def _forward_all(self) -> None:
        """Tell of every key's events from now on: before somebody listens none is built."""
        with self._lock:
            known = self._known()
        for key, slot in known:
            self._forward(key, slot)

    def _forward(self, key: Hashable, slot: KeySlot) -> None:
        events, text = getattr(slot.policy, "events", None), _text(key)
        with self._lock:
            is_heard, slot.is_heard = slot.is_heard, True
        if is_heard or not isinstance(events, Emitter):
            return

        def tell(event: Event) -> None:
            self.events.emit(event.kind, self.name, event.at, event.severity, **{**event.facts, "key": text})

        events.subscribe(tell)

    def __repr__(self) -> str:
        return f"<Keyed {self.name!r} {len(self)} keys, each like {self.template!r}>"


def _is_busy(slot: KeySlot) -> bool:
    return not getattr(slot.policy, "is_idle", True)


def _bounded(key: Hashable) -> Hashable:
    return bounded_key(key) if isinstance(key, str) else key


def _text(key: Hashable) -> str:
    """Return `key` as a policy is made with it, and as figures and events show it."""
    return bounded_key(key if isinstance(key, str) else repr(key))


def _told_apart(keys: list[Hashable]) -> list[str]:
    """Return the texts of `keys`, with the type behind those that several keys have."""
    texts = [_text(key) for key in keys]
    often = {text for text, times in Counter(texts).items() if times > 1}
    return [f"{text} ({type(key).__name__})" if text in often else text for key, text in zip(keys, texts, strict=True)]
