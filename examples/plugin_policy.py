"""A policy that a third party could publish: a total quota of calls, such as a metered API allows.

To publish one, put this entry point into your `pyproject.toml`, and users load it by name::

    [project.entry-points."resilience.policies"]
    quota = "your_module:Quota"

    Quota = resilience.plugins.load("resilience.policies", "quota")

Test it with `resilience.testing.PolicyConformance`, the suite the built-in policies pass.
"""

from __future__ import annotations

import threading
from typing import Any

from resilience import PolicyBase, RejectedError


class QuotaExhaustedError(RejectedError):
    """The calls paid for are used up."""

    code = "QUOTA_EXHAUSTED"


class Quota(PolicyBase):
    """Lets `calls` calls through; those that failed or were cancelled are not charged."""

    kind = "quota"

    def __init__(self, calls: int, *, name: str | None = None) -> None:
        super().__init__(name)
        self._left = calls
        self._lock = threading.Lock()  # guards the count; never held while the caller's function runs

    def admit(self) -> None:
        """Take one call from the quota."""
        with self._lock:
            if not self._left:
                raise QuotaExhaustedError(f"{self.name} is used up", policy=self.name)
            self._left -= 1

    def on_failure(self, _permit: Any, _error: Exception, /) -> None:
        """Give it back: the call was of no use."""
        self.on_abandon(None)

    def on_abandon(self, _permit: Any, /) -> None:
        """Give it back: the call did not happen."""
        with self._lock:
            self._left += 1
