"""How long each step of a request may take: never longer than somebody waits for its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resilience.timeout import Deadline

__all__ = ("LEAST", "StepTimeouts", "is_spent")

LEAST = 0.001
"""Seconds: 0 would make a socket non-blocking."""


def is_spent(deadline: Deadline | None, margin: float) -> bool:
    """Whether nothing is left: what ended was the deadline's time, not a timeout of the client's own."""
    return deadline is not None and deadline.remaining() - margin <= LEAST


class StepTimeouts(dict[str, Any]):
    """httpx's timeouts by step (connect, write, read, pool), each looked up when its step begins.

    So what the earlier steps took is not given to the later ones again.
    """

    def __init__(self, given: Mapping[str, Any], deadline: Deadline | None, margin: float) -> None:
        super().__init__(given)
        self.deadline = deadline
        self._margin = margin

    def get(self, step: str, default: Any = None) -> Any:
        """Return the seconds this step may take, None for no limit."""
        allowed: float | None = super().get(step, default)
        left = self.left
        return left if allowed is None or (left is not None and left < allowed) else allowed

    def __getitem__(self, step: str) -> Any:
        super().__getitem__(step)
        return self.get(step)

    @property
    def left(self) -> float | None:
        """Seconds for all steps together; None where nobody waits for them."""
        return None if self.deadline is None else max(LEAST, self.deadline.remaining() - self._margin)

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left of it."""
        return is_spent(self.deadline, self._margin)
