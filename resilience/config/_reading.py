"""From variables, files and arguments to entries: who said what about which setting. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from resilience._support.redaction import Secret, type_of
from resilience.config import _schema
from resilience.config._hint import follows, hint
from resilience.config._names import Key, Origin, dotted, fold, is_foreign, split, variable
from resilience.config._problems import Clash, Unknown
from resilience.config._quotes import STRAY, unquoted
from resilience.errors import Problem

__all__ = ("Entry", "Reading", "read_arguments", "read_environment", "read_file")


class Entry(NamedTuple):
    """One setting that was given. `spelled` is its name in error messages; `source` is how the table says it.

    `fault` says what was expected in place of text that no rule needs to look at.
    """

    raw: Any
    origin: Origin
    spelled: str
    source: str
    fault: str = ""


@dataclasses.dataclass
class Reading:
    """Everything one source says, and what is wrong with it before any value is looked at."""

    entries: dict[Key, Entry] = dataclasses.field(default_factory=dict)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    unknown: list[Problem] = dataclasses.field(default_factory=list)

    def take(self, key: Key, entry: Entry) -> None:
        """Note `entry`, unless there is no such setting or this source has already set it."""
        known = _schema.find(key)
        if known is None:
            self.unknown.append(_unknown(key, entry))
        elif (earlier := self.entries.get(key)) is not None:
            self.problems.append(Clash(entry.spelled, earlier.spelled))
        else:
            raw = entry.raw
            if isinstance(raw, str):
                raw = Secret(raw) if known.fields[key[-1]].metadata["secret"] else str(raw)
            self.entries[key] = entry._replace(raw=raw)


def read_environment(environ: Mapping[Any, Any]) -> Reading:
    """Read every variable under the prefix. An empty one is unset; order and what is not ours do not matter."""
    reading = Reading()
    for name in sorted(name for name in environ if isinstance(name, str)):
        key, text = split(name), environ[name]
        if key is None or is_foreign(name):
            continue
        if not isinstance(text, str):
            reading.problems.append(Problem(name, type(text).__name__, "text, as in every environment"))
        elif (value := unquoted(text.strip())) != "":
            fault = STRAY if value is None else ""
            reading.take(key, Entry(text.strip() if value is None else value, "environment", name, name, fault))
    return reading


def read_file(tree: Mapping[str, Any], path: str) -> Reading:
    """Read the tables of a TOML file; sources say `file: path:key`."""
    reading = Reading()
    for words, value in _leaves(tree):
        spelled = f"{path}:{dotted(words)}"
        if (known := _schema.find(_folded(words))) is not None and not known.pattern:  # it is already being read
            told = f"{variable(_folded(words))} sets it, or an argument"
            reading.unknown.append(Unknown(spelled, "key", told))
        elif value != "":
            reading.take(_folded(words), Entry(value, "file", spelled, f"file: {spelled}"))
    return reading


def read_arguments(tree: Mapping[str, Any]) -> Reading:
    """Read what code passed. A name that does not exist is an error here, never a warning."""
    reading = Reading()
    for words, value in _leaves(tree):
        reading.take(_folded(words), Entry(value, "argument", dotted(words), "argument"))
    reading.problems += reading.unknown
    reading.unknown = []
    return reading


def _leaves(tree: Mapping[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in tree.items():
        words = (*above, str(name))
        if isinstance(value, Mapping):
            yield from _leaves(value, words)
        else:
            yield words, value


def _folded(words: Iterable[str]) -> Key:
    return tuple(fold(word) for word in words)


_NOUNS: dict[Origin, str] = {"argument": "setting", "environment": "variable", "file": "key"}


def _unknown(key: Key, entry: Entry) -> Problem:
    """Say that there is no such setting, and what there is."""
    start, names = follows(key, entry.origin)
    if entry.origin == "argument" and start == key:  # told by its type alone: it may be a URL with a password
        return Problem(entry.spelled, type_of(entry.raw), f"a mapping of {', '.join(names)}")
    return Unknown(entry.spelled, _NOUNS[entry.origin], hint(key, entry.origin))
