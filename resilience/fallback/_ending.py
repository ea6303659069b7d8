"""What a call came to that has to be stood in for, and how the alternatives fared. Pure."""

from __future__ import annotations

from typing import Any, Final

__all__ = ("STANDS", "Ending")

STANDS: Final[Any] = object()
"""No alternative answered: the caller gets what the call came to."""


class Ending:
    """An error, or a result that was turned down where `error` is None."""

    __slots__ = ("error", "failures", "result")

    def __init__(self, error: Exception | None, result: Any = None) -> None:
        self.error = error
        self.result = result
        self.failures: list[Exception] = []
        """What the alternatives raised, in order."""

    @property
    def outcome(self) -> Any:
        """What the functions are given."""
        return self.result if self.error is None else self.error

    def is_translated(self, failure: Exception) -> bool:
        """Whether `failure` was raised `from` the call's error, which makes it an answer; any other one is noted."""
        if self.error is not None and failure.__cause__ is self.error:
            return True
        self.failures.append(failure)
        return False

    @property
    def facts(self) -> dict[str, Any]:
        """What listeners are told."""
        told = {"error": self.error, "failures": tuple(self.failures)}
        return told if self.error is not None else {**told, "result": self.result}
