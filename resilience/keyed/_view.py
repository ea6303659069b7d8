"""The policies of a `Keyed`, chosen by a key of another kind of call."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from resilience.keyed._policy import Keyed, KeySlot

__all__ = ("KeyedView",)


class KeyedView:
    """The policies of a `Keyed` in another pipeline, whose calls have other arguments.

    A view has no state: options, figures and events are those of the `Keyed`.

    Args:
        policies: The policies. Their own key function takes one argument, the key.
        key: A function of the arguments of a call that returns its key; or the key itself, the same for each call.
    """

    def __init__(self, policies: Keyed, key: Callable[..., Hashable] | str) -> None:
        self._policies, self._key = policies, key
        self.kind, self.template, self.events = policies.kind, policies.template, policies.events
        self.get, self.describe, self.snapshot = policies.get, policies.describe, policies.snapshot
        slot = policies.slot
        self.slot: Callable[..., KeySlot]
        """Returns the slot for a call with these arguments."""
        if isinstance(key, str):
            self.slot = lambda *_args, **_kwargs: slot(key)
        else:
            self.slot = lambda *args, **kwargs: slot(key(*args, **kwargs))

    @property
    def name(self) -> str:
        """The name of the `Keyed`."""
        return self._policies.name

    def __len__(self) -> int:
        return len(self._policies)

    def __repr__(self) -> str:
        return f"<KeyedView by {self._key!r} of {self._policies!r}>"
