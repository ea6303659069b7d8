from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.config import load
from resilience.config._names import variable
from resilience.config._render import written
from resilience.config._schema import SECTIONS, Section
from resilience.errors import ConfigurationError, Problem
from resilience.options import Choice, Duration, Flag, Listing, Number, Refused, Rule, Text, Whole, rule_of

RULES: dict[str, Rule] = {
    "whole": Whole(1, 1000),
    "number": Number(0, 1, above=True),
    "duration": Duration(above=True),
    "flag": Flag(),
    "choice": Choice("local", "allow", "deny"),
    "listing": Listing(Whole(1, 1000)),
    "text": Text("a word", pattern=r"[a-z]+", longest=20),
}
BAD_TEXT = {
    "wrong type": "{}",
    "negative": "-1",
    "zero": "0",
    "not a number": "nan",
    "infinity": "inf",
    "minus infinity": "-Infinity",
    "absurdly large": "9" * 400,
    "too many digits": "9" * 5000,
    "exponent": "1e999",
    "unknown unit": "30 fortnights",
    "unit without number": "ms",
    "control characters": "4\x00",
}
FINE_ANYWAY = {("flag", "zero"), ("text", "not a number"), ("text", "infinity"), ("text", "unit without number")}
BAD_VALUES: dict[str, object] = {
    "wrong type": object(),
    "negative": -1,
    "zero": 0,
    "not a number": float("nan"),
    "infinity": float("inf"),
    "absurdly large": 10**400,
    "bytes": b"4",
    "mapping": {"a": object()},
    "class": int,
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", BAD_TEXT)
def test_text_that_breaks_a_rule_is_refused(name: str, kind: str) -> None:
    """Every rule refuses every kind of bad text, and never fails in another way."""
    if (name, kind) in FINE_ANYWAY:
        RULES[name].parse(BAD_TEXT[kind])
        return
    with pytest.raises(Refused):
        RULES[name].parse(BAD_TEXT[kind])


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", BAD_VALUES)
def test_value_that_breaks_a_rule_is_refused(name: str, kind: str) -> None:
    """Every rule refuses every kind of bad value in code, and never fails in another way."""
    with pytest.raises(Refused):
        RULES[name].check(BAD_VALUES[kind])


@pytest.mark.parametrize("kind", BAD_TEXT)
@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.pattern or "loader")
def test_bad_text_in_any_variable_is_one_configuration_error(section: Section, kind: str) -> None:
    """Whatever a variable holds, loading either accepts it or raises one ConfigurationError that names it."""
    environ = {variable(section.key(field, "X")): BAD_TEXT[kind] for field in section.fields}
    named = {variable(section.key(field, "X")) for field in section.fields}
    assert {problem.option for problem in _problems(environ)} <= named


def _problems(environ: dict[str, str]) -> tuple[Problem, ...]:
    try:
        load(environ)
    except ConfigurationError as error:
        return error.problems
    return ()


def test_nested_brackets_without_end_are_refused() -> None:
    """A list nested deeper than the parser's stack is a bad value, not a crash."""
    with pytest.raises(Refused):
        Listing(Whole()).parse("[" * 100_000)


@given(st.floats(min_value=1e-6, max_value=31_536_000.0, allow_nan=False))
def test_written_durations_read_back(seconds: float) -> None:
    """A duration is shown as text that means the same duration."""
    rule = Duration()
    assert rule.parse(written(seconds, rule)) == pytest.approx(seconds, rel=1e-6, abs=1e-9)


@given(st.lists(st.text(min_size=1, max_size=20).filter(lambda text: text == text.strip())))
def test_written_lists_read_back(items: list[str]) -> None:
    """A list is shown as text that means the same list, commas and brackets included."""
    rule = Listing(Text())
    assert rule.parse(written(tuple(items), rule)) == tuple(items)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.pattern or "loader")
def test_every_default_keeps_its_own_rule(section: Section) -> None:
    """A default that is written down can be set explicitly, with the same effect."""
    for field in section.fields.values():
        if field.default is not None:
            assert rule_of(field).parse(written(field.default, rule_of(field))) == field.default


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (0.0005, "500us"), (0.05, "50ms"), (0.8, "800ms"), (1.5, "1.5s"), (60.0, "1m"), (90.0, "90s"),
     (5400.0, "90m"), (7200.0, "2h"), (86400.0, "1d")],
)  # fmt: skip
def test_durations_are_shown_in_the_unit_a_person_would_choose(seconds: float, text: str) -> None:
    """A round number of the largest unit that fits."""
    assert written(seconds, Duration()) == text


def test_other_values_are_shown_as_they_would_be_written() -> None:
    """None, flags, numbers and words have one spelling."""
    assert [written(value, Text()) for value in (None, True, 0.3, 2.0, 7, "x", ())] == [
        "none", "true", "0.3", "2", "7", "x", "[]",
    ]  # fmt: skip


def test_a_timedelta_in_code_is_a_duration() -> None:
    """Arguments take what code naturally has."""
    config = load({}, arguments={"server": {"deadline": timedelta(milliseconds=250)}})
    assert config.server.deadline == 0.25
