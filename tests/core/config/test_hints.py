"""What is offered in place of a name that does not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resilience.config import ConfigurationWarning, load
from resilience.errors import ConfigurationError

SECTIONS = (
    "SERVICE, REDIS, SERVER, CLIENT, HEALTH, LIFECYCLE, EVENTS, LOG, METRICS, STATUS, TELEMETRY, "
    "LIMITER, BUDGET, PIPELINE, POOL"
)
POLICIES = "ENABLED, CACHE, SINGLE_FLIGHT, RETRY, HEDGE, BREAKER, RATE_LIMIT, BULKHEAD, THREAD_POOL, TIMEOUT"


def hint(name: str) -> str:
    """Return what is offered in place of the variable."""
    with pytest.warns(ConfigurationWarning):
        (problem,) = load({f"RESILIENCE_{name}": "3"}).unknown
    return problem.hint.replace("RESILIENCE_", "")


@pytest.mark.parametrize(
    ("wrong", "fields"),
    [
        ("PIPELINE__P__TIMEOUT", "ENABLED, SECONDS, MARGIN, MAX_THREADS"),
        ("LIMITER__LOGIN", "RATE, BURST, SHADOW, LEASE"),
        (
            "REDIS",
            (
                "URL, OUTAGE, TIMEOUT, CONNECT_TIMEOUT, MAX_CONNECTIONS, PREFIX, SENTINEL_USERNAME, SENTINEL_PASSWORD, "
                "TLS_CA, TLS_CERTIFICATE, TLS_KEY"
            ),
        ),
        ("PIPELINE__PAYMENTS", POLICIES),
        ("PIPELINE", "<NAME>"),
    ],
)
def test_what_is_only_begun_is_told_how_to_go_on(wrong: str, fields: str) -> None:
    """A whole section, or a policy, that is given a value is answered with what can be set in it."""
    assert hint(wrong) == f"{wrong}__ is followed by {fields}"


@pytest.mark.parametrize("wrong", ["PIPELINE__P__FALLBACK__ENABLED", "PIPELINE__P__FOO__X", "PIPELINE__P__FOO"])
def test_a_policy_that_does_not_exist_is_answered_with_those_that_do(wrong: str) -> None:
    """No field of another policy is offered because it happens to have the same name."""
    assert hint(wrong) == f"PIPELINE__P__ is followed by {POLICIES}"


@pytest.mark.parametrize("wrong", ["SERVR__X", "CLUSTER__LEDGER__NODES", "TYPO", ""])
def test_a_section_that_does_not_exist_is_answered_with_those_that_do(wrong: str) -> None:
    """Where the first word means nothing, all first words are listed."""
    with pytest.warns(ConfigurationWarning):
        (problem,) = load({f"RESILIENCE_{wrong}": "3"}).unknown
    assert problem.hint == f"RESILIENCE_ is followed by CONFIG_FILE, STRICT, {SECTIONS}"


@pytest.mark.parametrize(
    ("wrong", "known"),
    [
        ("PIPELINE__P__TIMEOUT__TTL", "PIPELINE__P__TIMEOUT__ is followed by ENABLED, SECONDS, MARGIN, MAX_THREADS"),
        ("LIMITER__LOGIN__MAX_WAIT", "LIMITER__LOGIN__ is followed by RATE, BURST, SHADOW, LEASE"),
    ],
)
def test_a_field_like_no_other_is_answered_with_all_of_its_section(wrong: str, known: str) -> None:
    """Nothing is offered that is not alike."""
    assert hint(wrong) == known


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("SERVER__DEADLINES", "SERVER__DEADLINE"),
        ("SERVR__DEADLINE", "SERVER__DEADLINE"),
        ("LIMITER__LOGIN__MAX_BURST", "LIMITER__LOGIN__BURST"),
        ("LIMITER__RATE", "LIMITER__<NAME>__RATE"),
        ("PIPELINE____RETRY__ATTEMPTS", "PIPELINE__DEFAULT__RETRY__ATTEMPTS"),
        ("PIPELINE_PAYMENTS_RETRY_ATTEMPTS", "PIPELINE__PAYMENTS__RETRY__ATTEMPTS"),
        ("PIPELINE__PAYMENTS__API__RETRY__ATTEMPTS", "PIPELINE__PAYMENTS_API__RETRY__ATTEMPTS"),
        ("PIPELINE__P__RATE__LIMIT__MAX_WAIT", "PIPELINE__P__RATE_LIMIT__MAX_WAIT"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(wrong: str, meant: str) -> None:
    """A word that is nearly right, a `_` too many or too few, a name left out: one setting is offered."""
    assert hint(wrong) == f"did you mean {meant}?"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"limiter": {"login": "5/minute"}}, "limiter.login='str': expected a mapping of rate, burst, shadow"),
        ({"pipeline": {"p": {"timeout": 3}}}, "of enabled, seconds, margin, max_threads"),
        ({"pipeline": 3}, "pipeline='int': expected a mapping of <name>"),
        ({"redis": "redis://:hunter2@cache"}, "redis='str': expected a mapping of url, outage, timeout"),
        ({"pool": {}, "cluster": {"a": 1}}, r"cluster.a: no such setting \(there are config_file, strict, service"),
    ],
)
def test_a_section_in_code_is_a_mapping(arguments: dict[str, Any], told: str) -> None:
    """What is given in the place of one is told by its type, never by its value, with what the mapping may hold."""
    with pytest.raises(ConfigurationError, match=told) as caught:
        load({}, arguments=arguments)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("server = 5", "server is followed by rate_limit, rate_limit_burst"),
        ("strict = true", "RESILIENCE_STRICT sets it, or an argument"),
        ("[cluster]\na = 1", "there are service, redis, server"),
    ],
)
def test_a_key_of_the_file_is_answered_in_the_words_of_the_file(tmp_path: Path, content: str, told: str) -> None:
    """In a file there are keys with dots, and none that steer the loader."""
    path = tmp_path / "r.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.warns(ConfigurationWarning):
        (problem,) = load({"RESILIENCE_CONFIG_FILE": str(path)}).unknown
    assert problem.hint.startswith(told)
