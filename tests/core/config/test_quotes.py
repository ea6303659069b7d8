"""Quotes that an env file keeps around its values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.config import load
from resilience.config._read import STRAY, unquoted
from resilience.errors import ConfigurationError

VALUES: dict[str, tuple[str, Any]] = {
    "SERVER__RATE_LIMIT": ("100/second", "100/second"),
    "SERVER__DEADLINE": ("250ms", 0.25),
    "SERVER__MAX_CONCURRENT_REQUESTS": ("200", 200),
    "SERVER__RATE_LIMIT_HEADERS": ("true", True),
    "SERVER__ERRORS": ("problem", "problem"),
    "SERVER__RATE_LIMIT_KEY": ("header:X-Api-Key", "header:X-Api-Key"),
    "SERVER__IDENTITY_HEADER": ("none", None),
    "SERVER__EXCLUDE_PATHS": ("/a, /b", ("/a", "/b")),
    "SERVER__TRUSTED_PROXIES": ('["10.0.0.0/8", "unix"]', ("10.0.0.0/8", "unix")),
    "SERVER__PROBLEM_TYPE_BASE": ("https://shop.example/errors", "https://shop.example/errors"),
    "REDIS__URL": ("redis://:hunter2@cache:6379/0", "redis://:hunter2@cache:6379/0"),
    "SERVICE__NAME": ("orders", "orders"),
}


def value_of(name: str, text: str) -> Any:
    section, field = name.lower().split("__")
    return getattr(getattr(load({f"RESILIENCE_{name}": text}), section), field)


@pytest.mark.parametrize("quote", ['"', "'"])
@pytest.mark.parametrize("name", VALUES)
def test_a_pair_around_any_value_is_taken_off(name: str, quote: str) -> None:
    """`docker --env-file` keeps the quotes of its file: a value of whatever kind is read without them."""
    text, value = VALUES[name]
    assert value_of(name, text) == value
    assert value_of(name, f"{quote}{text}{quote}") == value
    assert value_of(name, f" {quote} {text} {quote} ") == value


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("form", ['"{}', '{}"', "'{}\"", '""{}""', "'{}", '"a" {} "b"', "''{}'"])
def test_other_quotes_are_refused(name: str, form: str) -> None:
    """A quote at one end, two that differ, or more than one pair are refused for any value; no secret is shown."""
    with pytest.raises(ConfigurationError) as caught:
        value_of(name, form.format(VALUES[name][0]))
    assert f"RESILIENCE_{name}" in str(caught.value)
    assert STRAY in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ['""', "''", '" "'])
def test_nothing_between_quotes_is_unset(text: str) -> None:
    """A pair of quotes with nothing in it is an empty variable, which is an unset one."""
    assert value_of("REDIS__URL", text) is None


def test_the_name_of_a_file(tmp_path: Path) -> None:
    """The path of the file is a value like any other."""
    (tmp_path / "a.toml").write_text('[service]\nname = "orders"\n')
    assert load({"RESILIENCE_CONFIG_FILE": f'"{tmp_path}/a.toml"'}).service.name == "orders"
    with pytest.raises(ConfigurationError) as caught:
        load({"RESILIENCE_CONFIG_FILE": f'"{tmp_path}/a.toml'})
    assert [problem.option for problem in caught.value.problems] == ["RESILIENCE_CONFIG_FILE"]


@given(st.text(alphabet="ab'\" ["))
def test_what_is_read_has_no_quote_at_an_end(text: str) -> None:
    """Whatever is in a variable, its value neither begins nor ends with a quote."""
    value = unquoted(text)
    assert value is None or not (value.startswith(("'", '"')) or value.endswith(("'", '"')))
