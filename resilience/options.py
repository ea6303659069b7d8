"""Options: frozen values with rules, the same check and the same error text for code, environment and file.

A rule turns the value that a user wrote into its working form, or refuses it. Options are frozen dataclasses whose
fields have rules; building options reports every bad field at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Self, TypeVar, cast

from resilience._support.redaction import Secret, redacted
from resilience._support.rules import (
    CLOCK,
    LONGEST,
    RANDOMNESS,
    Choice,
    Duration,
    Flag,
    Instance,
    Listing,
    Number,
    Opaque,
    Refused,
    Rule,
    Text,
    Whole,
    is_plain_callable,
)
from resilience.errors import ConfigurationError, Problem

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
    "Options",
    "Refused",
    "Rule",
    "Secret",
    "Text",
    "Whole",
    "checked",
    "is_plain_callable",
    "option",
    "rule_of",
    "seconds",
)


def seconds(value: float | str | timedelta, option_name: str, *, above: bool = False) -> float:
    """Return a duration in seconds.

    Args:
        value: Seconds, a timedelta, or text such as `"250ms"`.
        option_name: The name for the error.
        above: Whether 0 is refused.

    Raises:
        ConfigurationError: `value` is no duration from 0 to a year.

    Example:
        >>> seconds("1m30s", "timeout")
        90.0
    """
    return float(checked(value, option_name, Duration(above=above)))


def checked(value: object, option_name: str, rule: Rule) -> Any:
    """Return `value` in its working form.

    Args:
        value: The value that the user wrote.
        option_name: The name for the error.
        rule: The rule that the value must keep.

    Raises:
        ConfigurationError: The rule refuses the value.
    """
    try:
        return rule.check(value)
    except Refused:
        raise ConfigurationError([Problem(option_name, value, rule.expected)]) from None


T = TypeVar("T")


def option(default: T, rule: Rule, doc: str, *, none: str | None = None, secret: bool = False) -> T:
    """Declare a field of an `Options` class. Its type is that of the default.

    Args:
        default: The value if the option is not set.
        rule: The rule that values must keep.
        doc: One line for the reference: the effect of the option.
        none: The meaning of None. Default: None is refused.
        secret: Whether logs, errors and `config` hide the value.
    """
    given = {"rule": rule, "doc": doc, "none": none, "secret": secret}
    field: Any = dataclasses.field(default=default, metadata=given, repr=not secret)
    return field  # type: ignore[no-any-return]  # the dataclass decorator replaces the field by its value


def rule_of(field: dataclasses.Field[Any]) -> Rule:
    """Return the rule a field was declared with."""
    return cast("Rule", field.metadata["rule"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Values that keep their rules: building one with bad fields raises one error that lists them all."""

    def __post_init__(self) -> None:
        problems = [*self._normalised(), *self._together()]
        if problems:
            raise ConfigurationError(problems)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Return the options with these values, validated once for all policies (one for each key) with the same."""
        # An object that only code can give may change, or be equal to a different object.
        is_plain = _PLAIN.issuperset(map(type, values.values()))
        return cast("Self", _known(cast("Hashable", cls), **values)) if is_plain else cls(**values)

    def _normalised(self) -> Iterable[Problem]:
        for field in dataclasses.fields(self):
            value, rule = getattr(self, field.name), rule_of(field)
            if value is field.default or (value is None and field.metadata["none"] is not None):
                continue  # a default is in its working form
            try:
                object.__setattr__(self, field.name, _hidden(field, rule.check(value)))
            except Refused as error:
                shown = redacted(value, secret=field.metadata["secret"])
                hint = str(error) or _remark(value, rule) or f"default {field.default!r}"
                yield Problem(field.name, shown, _expected(field), hint)

    def _together(self) -> Iterable[Problem]:
        """Override: problems of fields that are fine alone and wrong together."""
        return ()

    def as_data(self) -> dict[str, Any]:
        """Return every value as plain data: secrets hidden, objects that only code can give as text."""
        hidden = {name: field.metadata["secret"] for name, field in self.fields().items()}
        return {name: _as_data(redacted(getattr(self, name), secret=secret)) for name, secret in hidden.items()}

    @classmethod
    def fields(cls) -> Mapping[str, dataclasses.Field[Any]]:
        """Every field by name, for the loader and the reference."""
        return {field.name: field for field in dataclasses.fields(cls)}


_PLAIN = frozenset((bool, int, float, str, timedelta, type(None)))
_known = functools.lru_cache(256, typed=True)(lambda kind, **values: kind(**values))


def _remark(value: object, rule: Rule) -> str:
    """Return the line that was probably meant by a value of another kind, or ""."""
    if isinstance(value, type) and issubclass(value, BaseException):
        return f"a class of errors is another option: write on={value.__name__}"
    if callable(value):
        return 'a policy is no decorator: put it into a pipeline, as in @Pipeline("name", policy)'
    is_share = isinstance(rule, Number) and rule.maximum == 1
    if is_share and isinstance(value, int | float) and 1 < value <= 100:  # noqa: PLR2004 - percent
        return f"{value:g} % is {value / 100:g}"
    return ""


def _hidden(field: dataclasses.Field[Any], value: object) -> object:
    return Secret(value) if field.metadata["secret"] and isinstance(value, str) else value


def _as_data(value: object) -> object:
    if isinstance(value, tuple):
        return [_as_data(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _expected(field: dataclasses.Field[Any]) -> str:
    none = field.metadata["none"]
    return rule_of(field).expected + (f", or None ({none})" if none else "")
