"""One wrong setting, as an error lists it."""

from __future__ import annotations

from typing import Any

from resilience._support.portable import packed, unpacked
from resilience._support.printable import shown

__all__ = ("Problem",)


class Problem:
    """One wrong setting.

    Args:
        option: The option or variable.
        value: Its value.
        expected: The rule; completes "expected ...".
        hint: A further remark, such as the default or the name that was probably meant.
    """

    __slots__ = ("expected", "hint", "option", "value")

    def __init__(self, option: str, value: object, expected: str, hint: str = "") -> None:
        self.option = option
        self.value = value
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.option}={shown(self.value)}: expected {self.expected}"
        return f"{text} ({self.hint})" if self.hint else text

    def __repr__(self) -> str:
        return f"Problem({self})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _problem, (self.option, packed(self.value), self.expected, self.hint)


def _problem(option: str, value: object, expected: str, hint: str) -> Problem:
    return Problem(option, unpacked(value), expected, hint)
