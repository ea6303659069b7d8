"""Rules: which values an option accepts. Each rule turns a value, or its text, into its working form, or refuses it."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import BuiltinFunctionType
from typing import Any, ClassVar, Protocol

__all__ = (
    "CLOCK",
    "LONGEST",
    "RANDOMNESS",
    "Choice",
    "Duration",
    "Flag",
    "Instance",
    "Listing",
    "Number",
    "Opaque",
    "Refused",
    "Rule",
    "Text",
    "Whole",
    "exceeds",
    "is_plain_callable",
)

LONGEST = 31_536_000.0
"""A year in seconds: a duration beyond it is a mistake in the unit, not a wish."""


class Refused(ValueError):  # noqa: N818 - never leaves this layer; it becomes a Problem of a ConfigurationError
    """The value breaks the rule. Its text, if it has one, says which part of the rule; it never contains the value."""


class Rule(Protocol):
    """The rule of an option: which values it accepts."""

    expected: str
    """Completes the sentence "expected ...", for error messages and the reference."""

    def check(self, value: object, /) -> Any:
        """Return the value in its working form, or raise `Refused`."""
        ...

    def parse(self, text: str, /) -> Any:
        """Return the working form of text from the environment or a command line, or raise `Refused`."""
        ...


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused
    try:
        is_finite = math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        is_finite = False
    if not is_finite:
        raise Refused
    return value


class _Bounded:
    """Shared by the numeric rules: both ends are inclusive unless `above`, which excludes the lower one."""

    noun: ClassVar[str]

    def __init__(self, minimum: float, maximum: float, *, above: bool = False) -> None:
        self.minimum, self.maximum, self.above = minimum, maximum, above
        lower = f"above {minimum:g}" if above else f"from {minimum:g}"
        self.expected = f"{self.noun} {lower} {'up ' if above else ''}to {_plain(maximum)}"

    def within(self, number: float) -> float:
        if not self.minimum <= number <= self.maximum or (self.above and number == self.minimum):
            raise Refused
        return number


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) else f"{number:g}"


class Whole(_Bounded):
    """A whole number."""

    noun = "a whole number"

    def __init__(self, minimum: int = 0, maximum: int = 1_000_000) -> None:
        super().__init__(minimum, maximum)

    def check(self, value: object, /) -> int:
        """Return `value` as int; 3.0 is not a whole number, because 3.7 would then be a question."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise Refused
        return int(self.within(value))

    def parse(self, text: str, /) -> int:
        """Accept decimal digits, with `_` between them."""
        try:
            return self.check(int(text))
        except ValueError as error:
            raise Refused from error


class Number(_Bounded):
    """A number, such as a rate or a factor."""

    noun = "a number"

    def check(self, value: object, /) -> float:
        """Return `value` as float; NaN and infinity are refused."""
        return float(self.within(_number(value)))

    def parse(self, text: str, /) -> float:
        """Accept the text of a float within the bounds."""
        try:
            return self.check(float(text))
        except ValueError as error:
            raise Refused from error


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(us|ms|min|s|m|h|d)?", re.ASCII)


class Duration(_Bounded):
    """A length of time: seconds as a number, a timedelta, or text such as `250ms`, `30s`, `5m`, `1h30m`.

    Args:
        minimum: Seconds.
        maximum: Seconds, at most a year.
        above: Whether `minimum` itself is refused.
        usual: Seconds. A setting that is a longer number without a unit is probably meant in milliseconds. None if any
            length is usual.
    """

    noun = "a duration (seconds, or like 250ms, 30s, 5m)"

    def __init__(
        self, minimum: float = 0.0, maximum: float = LONGEST, *, above: bool = False, usual: float | None = None
    ) -> None:
        super().__init__(minimum, maximum, above=above)
        self.usual = usual
        lower = f"above {minimum:g} s" if above else f"at least {minimum:g} s"
        self.expected = f"{self.noun} {lower}" + (f", at most {_plain(maximum)} s" if maximum < LONGEST else "")

    def check(self, value: object, /) -> float:
        """Return seconds as float."""
        if isinstance(value, str):
            return self.parse(value)
        if isinstance(value, timedelta):
            value = value.total_seconds()
        return float(self.within(_number(value)))

    def parse(self, text: str, /) -> float:
        """Accept a bare number of seconds, or numbers with units one after the other."""
        text = text.strip()
        total, position = 0.0, 0
        while match := _DURATION.match(text, position):
            number, unit = match.groups()
            if unit is None and (position or match.end() != len(text)):
                raise Refused  # "1h30": the unit of 30 is missing
            total += float(number) * _UNITS[unit or "s"]
            position = match.end()
        if not text or position != len(text):
            raise Refused
        return float(self.within(_number(total)))

    def is_unusual(self, raw: object) -> bool:
        """Return whether `raw` is a number without a unit that is longer than usual."""
        if self.usual is None or isinstance(raw, bool) or not isinstance(raw, str | int | float):
            return False
        try:
            return float(raw) > self.usual
        except ValueError:  # it has a unit
            return False


def exceeds(number: object, limit: object, *, or_equals: bool = False) -> bool:
    """Return whether `number` is above `limit`; False if a wrong or absent option makes one of them no number."""
    if not (isinstance(number, int | float) and isinstance(limit, int | float)):
        return False
    return number > limit or (or_equals and number == limit)


def is_plain_callable(value: object) -> bool:
    """Whether calling `value` gives an answer; a coroutine function gives a coroutine, which is always true."""
    if type(value) is BuiltinFunctionType:
        return True
    call = getattr(type(value), "__call__", None)  # noqa: B004 - the method is wanted, not whether there is one
    return callable(value) and not inspect.iscoroutinefunction(value) and not inspect.iscoroutinefunction(call)


class Flag:
    """A yes or no."""

    expected = "true or false (also yes/no, on/off, 1/0)"
    _words: ClassVar[dict[str, bool]] = {
        **dict.fromkeys(("true", "1", "yes", "on"), True),
        **dict.fromkeys(("false", "0", "no", "off"), False),
    }

    def check(self, value: object, /) -> bool:
        """Accept a bool only: 1 and "no" are questions in code."""
        if not isinstance(value, bool):
            raise Refused
        return value

    def parse(self, text: str, /) -> bool:
        """Accept the usual words in any case."""
        try:
            return self._words[text.strip().lower()]
        except KeyError:
            raise Refused from None


class Text:
    """Text of bounded length.

    Args:
        expected: Completes "expected ..." in errors.
        pattern: A regular expression that the whole text must match. Default: any text.
        longest: Characters at most.
    """

    def __init__(self, expected: str = "text", *, pattern: str | None = None, longest: int = 1000) -> None:
        self.expected = f"{expected}, 1 to {longest} characters"
        self._pattern = re.compile(pattern or r".+", re.DOTALL)
        self._longest = longest

    def check(self, value: object, /) -> str:
        """Return the text unchanged."""
        if not isinstance(value, str) or len(value) > self._longest or not self._pattern.fullmatch(value):
            raise Refused
        return value

    def parse(self, text: str, /) -> str:
        """Accept the text as it stands."""
        return self.check(text)


class Choice:
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.expected = "one of " + ", ".join(words)

    def check(self, value: object, /) -> str:
        """Return the word."""
        if not isinstance(value, str) or value not in self.words:
            raise Refused
        return value

    def parse(self, text: str, /) -> str:
        """Accept the word in any case."""
        return self.check(text.strip().lower())


class Listing:
    """Several values of one rule: a sequence in code; commas or a JSON array in text."""

    def __init__(self, each: Rule) -> None:
        self.each = each
        self.expected = f"a list (commas or a JSON array), each {each.expected}"

    def check(self, value: object, /) -> tuple[Any, ...]:
        """Return a tuple."""
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise Refused
        return tuple(self.each.check(item) for item in value)

    def parse(self, text: str, /) -> tuple[Any, ...]:
        """Accept `a,b` or `["a", "b"]`."""
        if text.lstrip().startswith("["):
            try:
                return self.check(json.loads(text))
            except (ValueError, RecursionError) as error:  # the latter: brackets nested without end
                raise Refused from error
        return tuple(self.each.parse(item.strip()) for item in text.split(",") if item.strip())


class Instance:
    """An object of certain types. Only code can give one."""

    def __init__(self, *types: type, expected: str) -> None:
        self.types = types
        self.expected = expected

    def check(self, value: object, /) -> Any:
        """Return the object."""
        if not isinstance(value, self.types):
            raise Refused
        return value

    def parse(self, _text: str, /) -> Any:
        """Refuse: there is no text for it."""
        raise Refused


class Opaque:
    """Whatever `accepts` approves of. Only code can give one."""

    def __init__(self, expected: str, accepts: Callable[[Any], bool]) -> None:
        self.expected = expected
        self._accepts = accepts

    def check(self, value: object, /) -> Any:
        """Return the object."""
        if not self._accepts(value):
            raise Refused
        return value

    def parse(self, _text: str, /) -> Any:
        """Refuse: there is no text for it."""
        raise Refused


CLOCK = Opaque("a function without arguments that returns seconds", is_plain_callable)
"""The rule for a clock."""
RANDOMNESS = Opaque("a function without arguments that returns a number from 0 to 1", is_plain_callable)
"""The rule for a source of random numbers."""
