"""Load the settings. No other module reads the environment of the process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from resilience._support.redaction import hidden, type_of
from resilience.config._config import Config
from resilience.config._machine import settle, unlikely
from resilience.config._names import Key, split
from resilience.config._read import Reading, read_arguments, read_environment, read_file, read_toml
from resilience.config._warning import warn
from resilience.errors import ConfigurationError, Problem

__all__ = ("load", "variables_in_force")

_FILE: Key = ("config_file",)


def load(
    environ: Mapping[str, str] | None = None,
    *,
    strict: bool | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Config:
    """Return the settings of arguments, environment and file, in this order of precedence, and the defaults.

    Args:
        environ: A mapping of variables. Default: the environment of the process at the time of the call.
        strict: Whether an unknown variable or key is an error, and seconds that look like milliseconds. Default:
            `RESILIENCE_STRICT`, else both are warnings.
        arguments: Settings in the structure of the file: `{"pipeline": {"payments": {"retry": {"attempts": 4}}}}`.

    Raises:
        ConfigurationError: At least one setting is wrong. The error lists every problem.

    Example:
        >>> load({"RESILIENCE_SERVER__DEADLINE": "800ms"}).server.deadline
        0.8
    """
    # An error tracker reports the local variables of this function.
    environ, arguments = hidden(environ), hidden(arguments)
    environment = read_environment(_mapping(os.environ if environ is None else environ))
    passed = read_arguments({**(arguments or {}), **({} if strict is None else {"strict": strict})})
    file = _file_named_by(passed, environment)
    settled, problems = settle((passed, environment, file))
    unknown = [*environment.unknown, *file.unknown]
    config = Config(settled, tuple(unknown), tuple(unlikely(settled)))
    doubtful = [*unknown, *config.unlikely]
    if problems or (doubtful and config.is_strict):
        # A misspelt name often explains the other problems, so the error lists it, although alone it is a warning.
        raise ConfigurationError([*problems, *doubtful])
    for begins, found in (("ignored: ", unknown), ("", config.unlikely)):
        if found:
            lines = "; ".join(str(problem) for problem in found)
            warn(f"{begins}{lines}. RESILIENCE_STRICT=true refuses {'it' if len(found) == 1 else 'them'}")
    return config


def variables_in_force() -> tuple[tuple[str, str], ...]:
    """Return the variables of the process that `load()` would read, so that a change can be seen."""
    return tuple(sorted((name, text) for name, text in os.environ.items() if split(name) is not None))


def _mapping(environ: Any) -> Mapping[Any, Any]:
    if not isinstance(environ, Mapping):
        raise ConfigurationError([Problem("environ", type_of(environ), "a mapping such as os.environ")])
    return environ


def _file_named_by(*readings: Reading) -> Reading:
    entry = next((reading.entries[_FILE] for reading in readings if _FILE in reading.entries), None)
    if entry is None or entry.fault or not isinstance(entry.raw, str) or entry.raw.lower() == "none":
        return Reading()
    tree, problems = read_toml(entry.raw, entry.spelled)
    reading = read_file(tree, entry.raw)
    reading.problems += problems
    return reading
