"""The names that a toolkit accepts for its parts, and the variables that set their options."""

from __future__ import annotations

from resilience.config import Config
from resilience.config._names import variable
from resilience.config._schema import section
from resilience.errors import ConfigurationError, Problem
from resilience.options import Refused
from resilience.pipeline import NAME

__all__ = ("check_name", "checked_config", "under_variables")


def check_name(kind: str, name: object) -> None:
    """Refuse a name that is none. A function is one if a user decorates it with a method of the toolkit."""
    try:
        NAME.check(name)
    except Refused:
        hint = f'write @toolkit.{kind}("name") above it' if callable(name) else ""
        raise ConfigurationError([Problem(f"{kind} name", name, NAME.expected, hint)]) from None


def checked_config(config: object) -> Config:
    """Return a configuration, and refuse anything else."""
    if not isinstance(config, Config):  # only its type is shown: the object may hold a password
        expected = "a Config, such as resilience.config.load() returns"
        raise ConfigurationError([Problem("config", type(config).__name__, expected)])
    return config


def under_variables(pattern: str, error: ConfigurationError) -> ConfigurationError:
    """Return the same error with the names of variables in place of the names of options."""
    known = section(pattern)
    problems = [
        Problem(variable(known.key(problem.option)), problem.value, problem.expected, problem.hint)
        for problem in error.problems
    ]
    return ConfigurationError(problems) if problems else error
