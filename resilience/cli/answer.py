"""The output of a command, and its colours."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("CommandOutput", "Paint")


class CommandOutput(NamedTuple):
    """Text for standard output (or, when `is_error`, for standard error), and the exit status."""

    text: str
    status: int = 0
    warnings: tuple[str, ...] = ()


class Paint:
    """Colours for a terminal, nothing for a pipe."""

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on

    def bold(self, text: str) -> str:
        """Return `text` to be noticed."""
        return self._painted("1", text)

    def dim(self, text: str) -> str:
        """Return `text` that stays in the background."""
        return self._painted("2", text)

    def good(self, text: str) -> str:
        """Return `text` in green."""
        return self._painted("32", text)

    def bad(self, text: str) -> str:
        """Return `text` in red."""
        return self._painted("31", text)

    def _painted(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._is_on else text
