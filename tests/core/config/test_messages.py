"""What a bad configuration is told, to the letter."""

import re
from pathlib import Path

import pytest

from resilience.config import ConfigurationWarning, load
from resilience.config._machine import Value, effective, instances
from resilience.config._names import Key
from resilience.config._read import Entry
from resilience.config._schema import section
from resilience.errors import ConfigurationError
from resilience.ratelimit._rate import EXPECTED

RATE = EXPECTED
DURATION = "a duration (seconds, or like 250ms, 30s, 5m)"
WINDOW = "a whole number of calls from 1 to 1,000,000, or a duration with its unit, like 60s or 5m"


def refused(**settings: str) -> list[str]:
    """Return the lines of the error."""
    with pytest.raises(ConfigurationError) as caught:
        load({f"RESILIENCE_{name}": value for name, value in settings.items()})
    return [str(problem).replace("RESILIENCE_", "") for problem in caught.value.problems]


def test_a_value_is_refused_with_rule_and_default() -> None:
    """A line names variable, value, rule, what none would mean where it is allowed, and the default as written."""
    assert refused(HEALTH__DETAILS="maybe") == [
        "HEALTH__DETAILS='maybe': expected true or false (also yes/no, on/off, 1/0) (default false)"
    ]
    assert refused(LIFECYCLE__DRAIN_DELAY="x") == [
        f"LIFECYCLE__DRAIN_DELAY='x': expected {DURATION} at least 0 s, at most 3,600 s (default 0s)"
    ]
    assert refused(SERVER__DEADLINE="x") == [
        f"SERVER__DEADLINE='x': expected {DURATION} above 0 s, or none (no limit) (default none)"
    ]


def test_what_is_needed_is_missed_with_what_asked_for_it() -> None:
    """A limit without a rate names the variable to set and those that were set instead."""
    assert refused(LIMITER__X__BURST="5") == [
        f"LIMITER__X__RATE is not set: expected {RATE}, because LIMITER__X__BURST is set"
    ]
    assert refused(LIMITER__X__BURST="5", LIMITER__X__SHADOW="true") == [
        f"LIMITER__X__RATE is not set: expected {RATE}, because LIMITER__X__BURST, LIMITER__X__SHADOW is set"
    ]
    assert refused(LIMITER__X__RATE="none") == [f"LIMITER__X__RATE is not set: expected {RATE}"]


def test_what_was_set_to_nothing_is_named_where_it_was() -> None:
    """An inherited rate that was set to none is named by the variable that did it."""
    assert refused(PIPELINE__DEFAULT__RATE_LIMIT__RATE="none", PIPELINE__P__RATE_LIMIT__BURST="5")[-1] == (
        f"PIPELINE__DEFAULT__RATE_LIMIT__RATE is not set: expected {RATE}, because PIPELINE__P__RATE_LIMIT__BURST is "
        "set (PIPELINE__P__RATE_LIMIT__ENABLED=false takes it away)"
    )


def test_a_burst_of_the_server_needs_its_rate() -> None:
    """A limit of which only the burst is set is a mistake, and not a server without a limit."""
    assert refused(SERVER__RATE_LIMIT_BURST="5") == [
        "SERVER__RATE_LIMIT_BURST=5: expected none where rate_limit is not set (default none)"
    ]
    limited = load({"RESILIENCE_SERVER__RATE_LIMIT_BURST": "5", "RESILIENCE_SERVER__RATE_LIMIT": "9/second"}).server
    assert (limited.rate_limit, limited.rate_limit_burst) == ("9/second", 5)


def test_what_can_be_switched_off_says_how() -> None:
    """A policy that lacks something can be taken away again, and the line says by which variable."""
    limit, hint = "PIPELINE__P__RATE_LIMIT", "PIPELINE__P__RATE_LIMIT__ENABLED=false takes it away"
    assert refused(PIPELINE__P__RATE_LIMIT__BURST="5") == [
        f"{limit}__RATE is not set: expected {RATE}, because {limit}__BURST is set ({hint})"
    ]


def test_a_default_that_is_wrong_beside_what_was_set_is_named_by_its_variable() -> None:
    """What nobody set but does not fit has the name under which it can be set, for that very instance."""
    expected = "HEDGE__MINIMUM_SAMPLES=100: expected at most sliding_window (50) (default 100)"
    assert refused(PIPELINE__P__HEDGE__SLIDING_WINDOW="50") == [f"PIPELINE__P__{expected}"]
    assert refused(PIPELINE__DEFAULT__HEDGE__SLIDING_WINDOW="50") == [f"PIPELINE__DEFAULT__{expected}"]


def test_a_mistake_made_in_code_is_named_as_it_was_made() -> None:
    """What was given as an argument, and for one pipeline, has the name it has there."""
    with pytest.raises(ConfigurationError) as caught:
        load({}, arguments={"pipeline": {"p": {"breaker": {"minimum_calls": 300}}}})
    (problem,) = caught.value.problems
    assert problem.option == "pipeline.p.breaker.minimum_calls"


def test_one_mistake_does_not_hide_another() -> None:
    """Values that cannot be judged for one pipeline's mistake are judged for the next pipeline."""
    judged = "at most sliding_window (100), or a rate could never be judged"
    assert refused(
        PIPELINE__P__BREAKER__SLIDING_WINDOW="lots",
        PIPELINE__P__BREAKER__MINIMUM_CALLS="300",
        PIPELINE__Q__BREAKER__MINIMUM_CALLS="300",
    ) == [
        f"PIPELINE__P__BREAKER__SLIDING_WINDOW='lots': expected {WINDOW} (default 100)",
        f"PIPELINE__Q__BREAKER__MINIMUM_CALLS=300: expected {judged} (default none)",
    ]


def value(what: object) -> Value:
    return Value(what, Entry(what, "argument", "here", "here"))


def test_instances_are_those_of_one_prefix_the_default_first() -> None:
    """Names are sorted, the one that all inherit from before the others; a section without names has none."""
    keys: list[Key] = [("pipeline", name, "retry", "attempts") for name in ("zebra", "default", "ant")]
    keys += [("limiter", "lion", "rate"), ("pipeline", "bear"), ("strict",)]
    settled = {key: value(3) for key in keys}
    assert instances(settled, "pipeline") == ("default", "ant", "zebra")
    assert instances(settled, "limiter") == ("lion",)


def test_only_policies_inherit() -> None:
    """A limiter named default is a limiter like any other; a pipeline named default is what all others begin with."""
    settled = {
        ("limiter", "default", "burst"): value(7),
        ("limiter", "lion", "rate"): value("1/second"),
        ("pipeline", "default", "retry", "attempts"): value(7),
        ("service", "name"): value("orders"),
    }
    assert list(effective(settled, section("limiter.*"), "lion")) == ["rate"]
    assert list(effective(settled, section("pipeline.*.retry"), "lion")) == ["attempts"]
    assert list(effective(settled, section("service"))) == ["name"]


UNLIKELY = {
    "PIPELINE__P__TIMEOUT__SECONDS": "800",
    "PIPELINE__P__RETRY__WAIT_INITIAL": "100",
    "PIPELINE__P__RETRY__WAIT_MAX": "5000",
    "PIPELINE__P__BULKHEAD__MAX_WAIT": "250",
    "PIPELINE__P__RATE_LIMIT__MAX_WAIT": "250",
    "PIPELINE__P__BREAKER__RESET_TIMEOUT": "30000",
    "PIPELINE__P__HEDGE__DELAY": "80",
    "SERVER__DEADLINE": "1500",
    "CLIENT__MARGIN": "20",
    "REDIS__TIMEOUT": "50",
    "LIFECYCLE__DRAIN_DELAY": "2000",
    "HEALTH__TIMEOUT": "250",
}


@pytest.mark.parametrize("name", UNLIKELY)
def test_seconds_that_look_like_milliseconds(name: str) -> None:
    """A number without a unit that is an unusual time in its place is a warning, and an error if strict (L22)."""
    value = UNLIKELY[name]
    variables = {f"RESILIENCE_{name}": value, "RESILIENCE_PIPELINE__P__RATE_LIMIT__RATE": "5/second"}
    text = f"{name}={value}: {value} seconds is an unusual time here (write {value}ms for milliseconds, or {value}s)"
    with pytest.warns(ConfigurationWarning) as caught:
        config = load(variables)
    assert text in str(caught[0].message)
    assert len(config.unlikely) == 1
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        load(variables, strict=True)


@pytest.mark.parametrize("value", ["800ms", "800s", "15m", "60", "0.8", " 30 "])
@pytest.mark.filterwarnings("error")
def test_a_unit_says_what_is_meant(value: str) -> None:
    """A time with a unit, or a usual number of seconds, is no mistake, also if strict."""
    config = load({"RESILIENCE_PIPELINE__P__TIMEOUT__SECONDS": value}, strict=True)
    assert config.unlikely == ()


def test_a_file_is_read_in_the_same_way(tmp_path: Path) -> None:
    """A number in a file is judged as a variable is."""
    file = tmp_path / "resilience.toml"
    file.write_text("[pipeline.p.timeout]\nseconds = 800\n")
    with pytest.warns(ConfigurationWarning, match=r"seconds=800: 800 seconds is an unusual time here"):
        load({"RESILIENCE_CONFIG_FILE": str(file)})
