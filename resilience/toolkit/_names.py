"""The names that a toolkit accepts for its parts."""

from __future__ import annotations

from resilience.errors import ConfigurationError, Problem
from resilience.options import Refused
from resilience.pipeline import NAME

__all__ = ("check_name",)


def check_name(kind: str, name: object) -> None:
    """Refuse a name that is none. A function is one if a user decorates it with a method of the toolkit."""
    try:
        NAME.check(name)
    except Refused:
        hint = f'write @toolkit.{kind}("name") above it' if callable(name) else ""
        raise ConfigurationError([Problem(f"{kind} name", name, NAME.expected, hint)]) from None
