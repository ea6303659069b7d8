"""One policy for each key, made at the first call with that key."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

from resilience._engine._steps import Call, Steps, events_of, is_idle, is_refusing
from resilience._support.fork import renew_after_fork
from resilience._support.keys import bounded_key
from resilience._support.measured import Measured, Measurement
from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Event, ForwardingEmitter
from resilience.keyed._machine import RecentKeys
from resilience.keyed._options import KeyedOptions
from resilience.options import CLOCK, checked, is_plain_callable
from resilience.policy import AroundPolicy, Named, Policy

__all__ = ("KeySlot", "Keyed")

P = ParamSpec("P")
R = TypeVar("R")
AnyPolicy = Policy | AroundPolicy


class KeySlot:
    """The policy of one key, and the calls that the engine has compiled with it."""

    __slots__ = ("compiled", "is_forwarded", "policy")

    def __init__(self, policy: AnyPolicy) -> None:
        self.policy = policy
        self.is_forwarded = False
        """Whether the events of the policy are forwarded."""
        self.compiled: dict[Callable[[], object], Call] = {}


class Keyed(Named, Measured):
    """Gives each key its own policy: a circuit per host, a bulkhead per tenant, a limit per method.

    The policy of a key is made at the first call with that key. The policy is dropped, with its figures, when the key
    has not been used for `idle`, or when more than `max_keys` keys are kept and this key was used least recently. A
    policy that is not idle is never dropped: a bulkhead with running calls, a timeout or hedge with running threads, a
    breaker that an operator has set. A policy that refuses calls is kept as long as at most four times `max_keys` keys
    are kept: an open circuit, or a limit in this process whose bucket is not full. So a client that invents keys does
    not close the circuits of others. Only such policies can bring the number of keys above `max_keys`.

    A block (`guard()`) has no arguments, so no `Keyed` can guard it.

    Args:
        make: A function of the key as text that returns a new policy, always of the same kind. Text of more than 256
            characters is replaced by its hash. The function is also called once with the text "template".
        key: A function of the arguments of the call that returns the key, which must be hashable.
        max_keys: The number of keys that are kept, from 1 to 1,000,000.
        idle: The time without a call after which a key is dropped: seconds, a timedelta, or text such as "10m".
        name: A metric label; by default `<pipeline>.<kind of the policies>`.
        clock: A function that returns monotonic seconds.

    Raises:
        ConfigurationError: An option is wrong. The error lists every wrong option.

    Example:
        >>> from resilience import Bulkhead, Keyed, Pipeline
        >>> tenants = Keyed(lambda _tenant: Bulkhead(2), key=lambda tenant: tenant)
        >>> Pipeline("api", tenants).call(str.upper, "acme")
        'ACME'
        >>> tenants.snapshot()["keys"]
        1
    """

    # The first call of a key sets an attribute twice: the check of each assignment would cost it 0.5 us. See `Fixed`.
    __setattr__ = object.__setattr__  # type: ignore[assignment]  # of C: its first parameter is not annotated

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
                given: object = function
                kind = type(given).__name__
                hint = f"write {option}=lambda key: {kind}(...)" if isinstance(given, AnyPolicy) else ""
                raise ConfigurationError([Problem(option, given, "a function (not a coroutine function)", hint)])
        self._make, self._key = make, key
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self.template = self._checked(make("template"))
        self.kind = str(getattr(self.template, "kind", "keyed"))  # the policy of a third party may have none
        self._slots: RecentKeys[KeySlot] = RecentKeys(self.options.max_keys, self.options.idle, _is_busy, _is_worth)
        self.events = ForwardingEmitter(self._forward_all)
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Keep the policies, under a fresh lock: a thread of the parent may have held the old one."""
        # Guards additions and removals; neither `key` nor `make` runs under it. Re-entrant, for finalizers that make
        # calls: during a change they can use the slots, but add none.
        self._lock = threading.RLock()
        self._is_at_work = False

    def after_test(self) -> None:
        """Forget all keys that no call uses."""
        with self._lock:
            if not self._is_at_work:
                self._change(self._slots.clear)

    def slot(self, /, *args: Any, **kwargs: Any) -> KeySlot:
        """Return the slot for a call with these arguments; make it at the first call with their key."""
        key = self._key(*args, **kwargs) if kwargs else self._key(*args)
        slots, now = self._slots, self._clock()
        slot = slots.touch(key, now)
        if slot is not None:
            if now >= slots.due:
                self._drop_idle(now)
            return slot
        bounded = _bounded(key)  # only now: a key that is too long is in no slot
        return self._new_slot(bounded) if bounded is key else self._slot_of(bounded)

    def _drop_idle(self, now: float) -> None:
        with self._lock:
            if not self._is_at_work:
                self._change(self._slots.drop_idle, now)

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

    @property
    def max_keys(self) -> int:
        """The number of keys that are kept."""
        return self.options.max_keys

    @property
    def idle(self) -> float:
        """Seconds without a call after which a key is dropped."""
        return self.options.idle

    def get(self, key: Hashable) -> AnyPolicy | None:
        """Return the policy of `key`, for example to open its circuit; None if the key is not kept."""
        with self._lock:
            slot = self._slots.peek(_bounded(key))
        return None if slot is None else slot.policy

    def __len__(self) -> int:
        return len(self._slots)

    def measure(self) -> Measurement:
        """Return the number of keys. The policies of the keys have measurements of their own, under the same name."""
        return Measurement("keyed", self.name, levels={"keys": len(self._slots)})

    def describe(self) -> dict[str, Any]:
        """Return kind, name and options, and under `each` the options of the policy of a key, as plain data."""
        return {**super().describe(), "each": Steps.of(self.template).describe().get("options", {})}

    def snapshot(self) -> dict[str, Any]:
        """Return the number of keys, and under `each` the state of the policy of each key, least recently used first.

        Keys are shown as text. Keys of several types with the same text, such as 1 and "1", are shown with their types.
        """
        with self._lock:
            known = self._known()
        texts = _distinct_texts([key for key, _ in known])
        figures: list[dict[str, Any]] = [dict(Steps.of(slot.policy).snapshot()) for _, slot in known]
        return {"keys": len(known), "each": dict(zip(texts, figures, strict=True))}

    def _new_slot(self, key: Hashable) -> KeySlot:
        text = _text(key)
        policy = self._checked(self._make(text))
        if (events := events_of(policy)) is not None:
            events.log = self.events.log.of_key(text)  # before the name, with which policies make their texts
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
            return policy  # of the class of the template, which has been checked
        kind = AroundPolicy if isinstance(getattr(self, "template", policy), AroundPolicy) else Policy
        if isinstance(policy, type) or not isinstance(policy, kind):
            raise ConfigurationError([Problem("make", policy, "a function that returns a policy, always of one kind")])
        return policy

    def _forward_all(self) -> None:
        """Forward the events of all policies from now on. Without a listener no event is built."""
        with self._lock:
            known = self._known()
        for key, slot in known:
            self._forward(key, slot)

    def _forward(self, key: Hashable, slot: KeySlot) -> None:
        events, text = events_of(slot.policy), _text(key)
        with self._lock:
            is_forwarded, slot.is_forwarded = slot.is_forwarded, True
        if is_forwarded or events is None:
            return

        def forward(event: Event) -> None:
            self.events.forward(event, self.name, key=text)

        events.subscribe(forward)

    def __repr__(self) -> str:
        return f"<Keyed {self.name!r} {len(self)} keys, each like {self.template!r}>"


def _is_busy(slot: KeySlot) -> bool:
    return not is_idle(slot.policy)


def _is_worth(slot: KeySlot) -> bool:
    return is_refusing(slot.policy)


def _bounded(key: Hashable) -> Hashable:
    return bounded_key(key) if isinstance(key, str) else key


def _text(key: Hashable) -> str:
    """Return `key` as the text that `make`, figures and events get."""
    return bounded_key(key if isinstance(key, str) else repr(key))


def _distinct_texts(keys: list[Hashable]) -> list[str]:
    """Return the texts of `keys`, with the type added to a text that several keys have."""
    texts = [_text(key) for key in keys]
    often = {text for text, times in Counter(texts).items() if times > 1}
    return [f"{text} ({type(key).__name__})" if text in often else text for key, text in zip(keys, texts, strict=True)]
