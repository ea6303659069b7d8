"""Read variables, a file and arguments into entries. An entry is one value of one setting, and its source."""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from resilience._support.redaction import Secret, type_of
from resilience.config import _schema
from resilience.config._names import Key, Origin, dotted, fold, is_foreign, split, variable
from resilience.config._problems import Clash, Unknown, follows, hint
from resilience.errors import Problem

__all__ = ("STRAY", "Entry", "Reading", "read_arguments", "read_environment", "read_file", "read_toml", "unquoted")


class Entry(NamedTuple):
    """One value of one setting. `spelled` is its name in error messages, `source` its source in the table.

    `fault` completes "expected ..." if the text is wrong before any rule is applied.
    """

    raw: object
    origin: Origin
    spelled: str
    source: str
    fault: str = ""


@dataclasses.dataclass
class Reading:
    """The entries of one source, and the problems with their names."""

    entries: dict[Key, Entry] = dataclasses.field(default_factory=dict)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    unknown: list[Problem] = dataclasses.field(default_factory=list)

    def take(self, key: Key, entry: Entry) -> None:
        """Add `entry`, unless the setting does not exist or this source has already set it."""
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
    """Read every variable with the prefix, in any order. An empty variable is unset."""
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
    """Read the tables of a TOML file. The source of an entry is `file: path:key`."""
    reading = Reading()
    for words, value in _leaves(tree):
        spelled = f"{path}:{dotted(words)}"
        if (known := _schema.find(_folded(words))) is not None and not known.pattern:  # a setting of the loader
            hint_text = f"{variable(_folded(words))} sets it, or an argument"
            reading.unknown.append(Unknown(spelled, "key", hint_text))
        elif value != "":
            reading.take(_folded(words), Entry(value, "file", spelled, f"file: {spelled}"))
    return reading


def read_arguments(tree: Mapping[str, Any]) -> Reading:
    """Read the arguments of the caller. A name that does not exist is an error here, never a warning."""
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
    """Return the problem that no such setting exists, with a hint to the settings that exist."""
    start, names = follows(key, entry.origin)
    if entry.origin == "argument" and start == key:  # only its type is shown: it may be a URL with a password
        return Problem(entry.spelled, type_of(entry.raw), f"a mapping of {', '.join(names)}")
    return Unknown(entry.spelled, _NOUNS[entry.origin], hint(key, entry.origin))


STRAY = "no quote at either end, or the same one at both ends and nowhere between them"
"""Completes the sentence "expected ..."."""

_QUOTES = ("'", '"')


def unquoted(text: str) -> str | None:
    """Return the value without the one pair of quotes around it, or None if there are quotes that make no pair.

    No setting has a value that begins or ends with a quote, so a pair is never part of it. A JSON array may be between
    two quotes and hold the same ones.
    """
    if not text.startswith(_QUOTES) and not text.endswith(_QUOTES):
        return text
    quote, inner = text[:1], text[1:-1].strip()
    is_pair = len(text) > 1 and quote in _QUOTES and text.endswith(quote)
    if not is_pair or inner.startswith(_QUOTES) or inner.endswith(_QUOTES):
        return None
    return inner if quote not in inner or inner.startswith("[") else None


LARGEST = 1_000_000
"""Bytes. A larger file is no configuration, and was named by mistake."""


def read_toml(path: str, spelled: str) -> tuple[dict[str, Any], list[Problem]]:
    """Return the tables of the file at `path`, or the problem with it under the name that gave the path."""
    import tomllib  # noqa: PLC0415 - it takes 5 ms, and most services have no file

    try:
        return tomllib.loads(_content(path)), []
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a path with a null byte, nesting without end
        reason = str(error) or type(error).__name__
    return {}, [Problem(spelled, path, "a readable TOML file", reason)]


def _content(path: str) -> str:
    place = Path(path)
    status = place.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > LARGEST:
        raise ValueError(f"larger than {LARGEST:,} bytes")
    return place.read_text(encoding="utf-8")
