from __future__ import annotations

import re

import limits
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import Resilience, TokenBucket
from resilience.errors import ConfigurationError
from resilience.ratelimit import Rate, RateLimitOptions
from resilience.ratelimit._rate import as_rate

UNITS = ["second", "minute", "hour", "day", "month", "year"]
SHORT = {"s": "second", "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "d": "day"}
SHORT_AT_THE_END = re.compile(r"(?<![a-z])(s|sec|min|h|hr|d)s?\s*$", re.IGNORECASE)
spaces = st.sampled_from(["", " ", "  "])


@given(
    amount=st.integers(1, 10**9),
    multiples=st.none() | st.integers(1, 10),
    unit=st.sampled_from(UNITS),
    plural=st.booleans(),
    separator=st.sampled_from(["/", " / ", "per ", " per "]),
    upper=st.booleans(),
    gap=spaces,
)
def test_what_limits_reads_we_read_the_same(
    *, amount: int, multiples: int | None, unit: str, plural: bool, separator: str, upper: bool, gap: str
) -> None:
    """A rate means exactly what it means to the limits package."""
    name = unit + "s" * plural
    text = f"{gap}{amount}{separator}{multiples or ''}{gap}{name.upper() if upper else name}{gap}"
    theirs = limits.parse(text)
    assert as_rate(text) == Rate(theirs.amount, theirs.get_expiry())


@given(st.text(alphabet="0123456789/ persconduhyamit,;K\u017f\u0660\n-.", max_size=20))
def test_what_limits_refuses_we_refuse(text: str) -> None:
    """We read no text as a rate that limits does not, but for the short units."""
    try:
        ours = as_rate(text)
    except ConfigurationError:
        return
    theirs = limits.parse(SHORT_AT_THE_END.sub(lambda found: SHORT[found[1].lower()] + " ", text))
    assert (ours.amount, ours.period_seconds) == (theirs.amount, theirs.get_expiry())


@given(st.builds(Rate, st.integers(1, 10**9), st.integers(1, 10 * 360 * 86400)))
def test_written_and_read_back(rate: Rate) -> None:
    """A rate as text is the same rate again."""
    assert as_rate(str(rate)) == rate


@pytest.mark.parametrize(
    "bad",
    [
        *(
            "",
            "abc",
            "100",
            "100/",
            "/minute",
            "100/fortnight",
            "0/second",
            "5 per 0 minutes",
            "-1/second",
            "1.5/second",
        ),
        *("2000000000/second", "1 per 20 years", "100/minutess", "9" * 200 + "/second", None, 5, b"5/second"),
    ],
)
def test_no_rate(bad: object) -> None:
    """A text that is no rate is refused with the option, the value and an example of a rate."""
    with pytest.raises(ConfigurationError, match=r"rate=.*expected a rate"):
        as_rate(bad)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("100/s", "100/second"),
        ("100 / S", "100/second"),
        ("100 per s", "100/second"),
        ("5/sec", "5/second"),
        ("5/secs", "5/second"),
        ("5/min", "5/minute"),
        ("5 per 2 mins", "5 per 2 minutes"),
        ("10/5s", "10 per 5 seconds"),
        ("3/h", "3/hour"),
        ("3 per 6 hrs", "3 per 6 hours"),
        ("2/d", "2/day"),
    ],
)
def test_short_units(text: str, means: str) -> None:
    """The short units of seconds, minutes, hours and days are units of a rate, in every place that takes a rate."""
    assert str(as_rate(text)) == means
    assert str(TokenBucket(text).rate) == means
    settings = {"RESILIENCE_SERVER__RATE_LIMIT": text, "RESILIENCE_LIMITER__API__RATE": text}
    with Resilience.from_env(settings) as toolkit:
        assert str(toolkit.limiter("api").rate) == means


@pytest.mark.parametrize("text", ["5/m", "5 per M", "5 per 2 m"])
def test_a_minute_or_a_month(text: str) -> None:
    """`m` could be a minute or a month, so it is refused with both lines that can be meant."""
    with pytest.raises(ConfigurationError, match=r"m could be a minute or a month: write 5.*min or 5.*month"):
        as_rate(text)
    with pytest.raises(ConfigurationError, match=r"RESILIENCE_LIMITER__API__RATE=.*not m"):
        Resilience.from_env({"RESILIENCE_LIMITER__API__RATE": text})


def test_a_number_is_no_rate() -> None:
    """A number alone is refused with the lines that can be meant."""
    with pytest.raises(ConfigurationError, match="write 100/second or 100/minute"):
        as_rate("100")


@pytest.mark.parametrize("several", ["1/second;5/minute", "1/second, 5/minute", "1/second|5/minute"])
def test_several_rates(several: str) -> None:
    """Several rates in one text are refused with the reason."""
    with pytest.raises(ConfigurationError, match="expected one rate here"):
        as_rate(several)


def test_rate_built_by_hand() -> None:
    """A `Rate` keeps the bounds of the notation, and goes wherever its text does."""
    assert as_rate(Rate(5, 120)).interval == 24
    assert str(Rate(5, 120)) == "5 per 2 minutes"
    for amount, period in ((0, 1), (1, 0), (True, 1), (1.5, 1), (10**10, 1), (1, 10**9)):
        with pytest.raises(ConfigurationError):
            Rate(amount, period)  # type: ignore[arg-type]  # what the test is about


def test_options_check_the_rate() -> None:
    """A bad rate fails when it is configured, not when it is first used."""
    assert RateLimitOptions(rate="5/minute").rate == "5/minute"
    assert RateLimitOptions(rate=Rate(5, 60)).rate == "5/minute"  # type: ignore[arg-type]  # accepted in its place
    for bad in ("5/fortnight", 5):
        with pytest.raises(ConfigurationError, match="rate="):
            RateLimitOptions(rate=bad)  # type: ignore[arg-type]  # what the test is about
