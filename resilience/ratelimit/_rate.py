"""Rates in the notation of the limits package: `100/minute`, `5 per 2 minutes`, `10/second`; and its short units.

The grammar is small. It is restated here because importing limits costs 100 ms; a property test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from resilience.errors import ConfigurationError, Problem
from resilience.options import Refused

__all__ = ("EXPECTED", "MAX_PERIOD", "Rate", "RateText", "as_rate", "as_rates", "text_of")

_DAY = 86_400
# The units of limits: a month is 30 days, and a year is 12 such months.
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": _DAY, "month": 30 * _DAY, "year": 360 * _DAY}
_SHORT_UNITS = {"s": 1, "sec": 1, "min": 60, "h": 3600, "hr": 3600, "d": _DAY}
"""Beyond limits. There is no `m`: it could be a minute or a month."""
_NOTATION = re.compile(r"\s*([0-9]+)\s*(?:/|per)\s*([0-9]+)?\s*([a-z]+)\s*", re.IGNORECASE)
_SEPARATORS = re.compile(r"[,;|]")
_MAX_RATES = 8
_MAX_AMOUNT = 1_000_000_000
MAX_PERIOD = 10 * 360 * _DAY

_AMBIGUOUS = "m"
EXPECTED = (
    "a rate such as 100/minute, 5/s or 5 per 2 minutes "
    "(units s, sec, second, min, minute, h, hour, d, day, month, year; not m)"
)
_SINGLE_RATE = "one rate here; where several are allowed, write them with a semicolon: 10/second;500/hour"
_BOUNDS = f"a rate of 1 to {_MAX_AMOUNT:,} per 1 second to 10 years"


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of calls per period.

    Attributes:
        amount: Calls, 1 to 1,000,000,000.
        period_seconds: The period in whole seconds, 1 second to ten years.

    Raises:
        ConfigurationError: One of the two is out of range.

    Example:
        >>> from resilience.ratelimit import Rate
        >>> str(Rate(5, 120)), Rate(5, 120).interval
        ('5 per 2 minutes', 24.0)
    """

    amount: int
    period_seconds: int

    def __post_init__(self) -> None:
        if not (_is_whole(self.amount, _MAX_AMOUNT) and _is_whole(self.period_seconds, MAX_PERIOD)):
            raise ConfigurationError([Problem("rate", (self.amount, self.period_seconds), _BOUNDS)])

    @property
    def interval(self) -> float:
        """Seconds from one token to the next."""
        return self.period_seconds / self.amount

    def __str__(self) -> str:
        name, seconds = next(unit for unit in reversed(_UNITS.items()) if self.period_seconds % unit[1] == 0)
        multiples = self.period_seconds // seconds
        return f"{self.amount}/{name}" if multiples == 1 else f"{self.amount} per {multiples} {name}s"


def _is_whole(number: object, maximum: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= maximum


def as_rate(rate: object, option: str = "rate") -> Rate:
    """Return `rate`, read from its notation. Raises `ConfigurationError` that names `option`."""
    if isinstance(rate, Rate):
        return rate
    if not isinstance(rate, str) or len(rate) > RateText.max_length:
        raise ConfigurationError([Problem(option, rate, EXPECTED)])
    if _SEPARATORS.search(rate):
        raise ConfigurationError([Problem(option, rate, _SINGLE_RATE)])
    match = _NOTATION.fullmatch(rate)
    unit = None if match is None else _unit(match[3].lower())
    if match is None or unit is None:
        raise ConfigurationError([Problem(option, rate, EXPECTED, _hint(rate, match))])
    amount, period = int(match[1]), int(match[2] or 1) * unit
    if not (_is_whole(amount, _MAX_AMOUNT) and _is_whole(period, MAX_PERIOD)):
        raise ConfigurationError([Problem(option, rate, _BOUNDS)])
    return Rate(amount, period)


def as_rates(rates: object, option: str = "rate") -> tuple[Rate, ...]:
    """Return the rates of a text such as `10/second;500/hour`, the shortest period first.

    Raises:
        ConfigurationError: A rate is wrong, occurs twice, or there are more than eight; the error names `option`.
    """
    if not isinstance(rates, str) or ";" not in rates or len(rates) > RateText.max_length:
        return (as_rate(rates, option),)
    found = [as_rate(each, option) for each in rates.split(";")]
    if len(set(found)) < len(found) or len(found) > _MAX_RATES:
        raise ConfigurationError([Problem(option, rates, f"at most {_MAX_RATES} rates, each of them once")])
    return tuple(sorted(found, key=lambda rate: (rate.period_seconds, rate.amount)))


def text_of(rates: Iterable[Rate]) -> str:
    """Return the text of some rates, one spelling for all texts that mean the same."""
    return ";".join(map(str, rates))


def _unit(name: str) -> int | None:
    """Return the seconds of a unit, which may be a plural."""
    for word in (name, name.removesuffix("s")):
        if (seconds := _UNITS.get(word) or _SHORT_UNITS.get(word)) is not None:
            return seconds
    return None


def _hint(rate: str, match: re.Match[str] | None) -> str:
    """Return the lines that a reader of the error can write instead."""
    if match is not None and match[3].lower() == _AMBIGUOUS:
        before = rate[: match.start(3)].strip()
        return f"m could be a minute or a month: write {before}min or {before}month"
    number = rate.strip()
    return f"write {number}/second or {number}/minute" if number.isdecimal() else ""


class RateText:
    """The rule of an option that holds a rate as text. A `Rate` is accepted too."""

    expected = EXPECTED
    max_length = 300  # eight rates in the longest spelling

    def check(self, value: object, /) -> str:
        """Return the text unchanged, or a `Rate` as text."""
        if not isinstance(value, str | Rate):
            raise Refused
        try:
            as_rates(value)
        except ConfigurationError:
            raise Refused from None
        return str(value)

    def parse(self, text: str, /) -> str:
        """Return the text unchanged."""
        return self.check(text)
