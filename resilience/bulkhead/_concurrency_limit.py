"""The limit of both bulkheads: how it is read, and how it is changed while calls are in flight."""

from __future__ import annotations

import dataclasses
from typing import Any

from resilience.bulkhead._admission import Admission
from resilience.policy import Named

__all__ = ("ConcurrencyLimit",)


class ConcurrencyLimit(Named):
    """A policy that limits how many calls are in flight at once."""

    options: Any
    _limit_option: str
    """The option that sets the limit."""

    _changed_by = "resize(limit)"

    def __init__(self, name: str | None, admission: Admission) -> None:
        super().__init__(name)
        self._admission = admission
        self._admission.name = self.name
        self.events = admission.events
        self._is_made = True

    def renamed(self) -> None:
        """Use the new name in errors and events."""
        self._admission.name = self.name

    @property
    def limit(self) -> int:
        """Calls that may be in flight at once."""
        return self._admission.limit

    @property
    def concurrent_calls(self) -> int:
        """Calls in flight."""
        return self._admission.concurrent_calls

    @property
    def waiting(self) -> int:
        """Callers that wait for a place."""
        return self._admission.waiting

    @property
    def rejected_calls(self) -> int:
        """Calls refused so far; in shadow mode, calls that would have been."""
        return self._admission.rejected_calls

    @property
    def is_idle(self) -> bool:
        """Whether no call is in flight and none waits: nothing is lost if the policy is dropped."""
        return not self.concurrent_calls and not self.waiting

    def resize(self, limit: int) -> None:
        """Change the limit while calls are in flight.

        A higher limit gives the new places to the callers that wait. A lower one takes effect as calls end; no call is
        broken off.

        Args:
            limit: The number of calls that may be in flight at once from now on.

        Raises:
            ConfigurationError: `limit` is not a number that the option allows.
        """
        vars(self)["options"] = dataclasses.replace(self.options, **{self._limit_option: limit})
        self._admission.resize(limit)

    def snapshot(self) -> dict[str, int]:
        """Return the limit, the calls in flight, the callers that wait, and the number of calls refused so far."""
        return {
            "limit": self.limit,
            "concurrent": self.concurrent_calls,
            "waiting": self.waiting,
            "rejected": self.rejected_calls,
        }
