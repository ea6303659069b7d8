"""What can be wrong with a setting besides its value."""

from __future__ import annotations

from collections.abc import Mapping

from resilience.config._names import fold, variable
from resilience.config._nearest import nearest
from resilience.errors import Problem

__all__ = ("Clash", "Missing", "NoPipeline", "Unknown")


class Unknown(Problem):
    """There is no such setting. Its value is not shown: it may be a secret under a misspelt name."""

    __slots__ = ()

    def __init__(self, spelled: str, noun: str, hint: str) -> None:
        super().__init__(spelled, None, f"no such {noun}", hint)

    def __str__(self) -> str:
        return f"{self.option}: {self.expected} ({self.hint})"


class Missing(Problem):
    """Something needed was not set."""

    __slots__ = ()

    def __init__(self, spelled: str, expected: str, hint: str = "") -> None:
        super().__init__(spelled, None, expected, hint)

    def __str__(self) -> str:
        return f"{self.option} is not set: expected {self.expected}" + (f" ({self.hint})" if self.hint else "")


class Clash(Problem):
    """Two names mean the same setting, and nothing says which one counts."""

    __slots__ = ()

    def __init__(self, spelled: str, other: str) -> None:
        super().__init__(spelled, None, f"the same setting as {other}: expected only one of the two")

    def __str__(self) -> str:
        return f"{self.option}: {self.expected}"


class NoPipeline(Problem):
    """A pipeline was asked for by name that nobody has configured; `known` are those that exist, by folded name."""

    __slots__ = ()

    def __init__(self, name: str, known: Mapping[str, str]) -> None:
        hint = f"{variable(('pipeline', fold(name), '<policy>', '<field>'))} would"
        if known:
            meant = nearest(fold(name), known)
            hint = f"did you mean {known[meant]}?" if meant else ""
        super().__init__("pipeline", name, f"known: {', '.join(sorted(known.values())) or 'none'}", hint)

    def __str__(self) -> str:
        text = f"no pipeline {self.value!r} is configured; {self.expected}"
        return text + (f" ({self.hint})" if self.hint else "")
