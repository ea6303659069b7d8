"""Problems of settings besides their values, and hints to the setting that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

from resilience.config._names import PREFIX, Key, Origin, dotted, fold, variable
from resilience.config._schema import ANY, DEFAULT, SECTIONS, Section, section
from resilience.errors import Problem

__all__ = ("Clash", "Missing", "NoPipeline", "Unknown", "Unlikely", "alike", "follows", "hint", "nearest")


class Unknown(Problem):
    """A setting that does not exist. Its value is not shown: it may be a secret under a misspelt name."""

    __slots__ = ()

    def __init__(self, spelled: str, noun: str, hint: str) -> None:
        super().__init__(spelled, None, f"no such {noun}", hint)

    def __str__(self) -> str:
        return f"{self.option}: {self.expected} ({self.hint})"


class Missing(Problem):
    """A setting that is required and not set."""

    __slots__ = ()

    def __init__(self, spelled: str, expected: str, hint: str = "") -> None:
        super().__init__(spelled, None, expected, hint)

    def __str__(self) -> str:
        return f"{self.option} is not set: expected {self.expected}" + (f" ({self.hint})" if self.hint else "")


class Clash(Problem):
    """Two names of one setting, with no rule which of them counts."""

    __slots__ = ()

    def __init__(self, spelled: str, other: str) -> None:
        super().__init__(spelled, None, f"the same setting as {other}: expected only one of the two")

    def __str__(self) -> str:
        return f"{self.option}: {self.expected}"


class Unlikely(Problem):
    """A number without a unit that is probably meant in milliseconds. Seconds are in force."""

    __slots__ = ()

    def __init__(self, spelled: str, number: str) -> None:
        hint = f"write {number}ms for milliseconds, or {number}s"
        super().__init__(spelled, number, f"{number} seconds is an unusual time here", hint)

    def __str__(self) -> str:
        return f"{self.option}={self.value}: {self.expected} ({self.hint})"


class NoPipeline(Problem):
    """The name of a pipeline that is not configured. `known` has the pipelines that exist, by folded name."""

    __slots__ = ()

    def __init__(self, name: str, known: Mapping[str, str]) -> None:
        hint = f"{variable(('pipeline', fold(name), '<policy>', '<field>'))} would"
        if known:
            meant = nearest(fold(name), known)
            hint = f"did you mean {known[meant]}?" if meant else ""
        super().__init__("pipeline", name, f"known: {', '.join(sorted(known.values())) or 'none'}", hint)

    def __str__(self) -> str:
        text = f"no pipeline {self.value!r} is configured; {self.expected}"
        return text + (f" ({self.hint})" if self.hint else "")


_NAME = "<name>"
_SAME_FIELD = 0.7
"""Fields share words (`threshold`, `timeout`), so a field must be more alike than a section or a policy."""


def hint(key: Key, origin: Origin) -> str:
    """Return the setting that is probably meant by `key`, else the words that are possible at its first wrong word.

    This imports the package of every section, because it needs all settings.
    """
    is_variable = origin == "environment"
    meant = _misspelt(key) or _misparted("_".join(key))
    if meant:
        return f"did you mean {variable(meant) if is_variable else dotted(meant)}?"
    start, names = follows(key, origin)
    if is_variable:
        place = f"{variable(start)}__" if start else PREFIX
        return f"{place} is followed by {', '.join(names).upper()}"
    return f"{dotted(start)} is followed by {', '.join(names)}" if start else f"there are {', '.join(names)}"


def follows(key: Key, origin: Origin) -> tuple[Key, list[str]]:
    """Return the longest valid start of `key`, and the words that can follow it."""
    for length in range(len(key), 0, -1):
        if names := list(dict.fromkeys(_after(key[:length]))):
            return key[:length], names
    loader = section("").fields if origin == "file" else {}  # a file cannot name the file to read
    return (), [name for name in dict.fromkeys(_after(())) if name not in loader]


def _after(start: Key) -> Iterator[str]:
    for known in SECTIONS:
        if known.begins_with(start):
            rest = known.words[len(start) :]
            yield from (_NAME if rest[0] == ANY else rest[0],) if rest else known.fields


def _misspelt(key: Key) -> Key | None:
    """Return the setting that is most alike. Each of its words must be alike."""
    instance = key[1] if len(key) > 2 else ""  # noqa: PLR2004 - section, instance, field
    ratio, meant = max(((_likeness(key, each), each) for each in _settings(instance)), key=lambda found: found[0])
    return meant if ratio and meant != key else None


def _settings(instance: str) -> Iterator[Key]:
    return (known.key(field, instance) for known in SECTIONS for field in known.fields)


def _likeness(key: Key, other: Key) -> float:
    if len(key) != len(other):
        return 0.0
    ratios = [alike(word, actual) for word, actual in zip(key, other, strict=True)]
    return sum(ratios) if all(ratios) and ratios[-1] >= _SAME_FIELD else 0.0


def _misparted(text: str) -> Key | None:
    """Return the setting whose words are in `text`, with wrong separators between them or without an instance."""
    found = ((known, field, _instance(text, known, field)) for known in SECTIONS for field in known.fields)
    keys = [known.key(field, instance) for known, field, instance in found if instance is not None]
    return max(keys, key=lambda key: sum(map(len, key[2:])), default=None)  # the most words of a policy and its field


def _instance(text: str, known: Section, field: str) -> str | None:
    """Return the instance that `text` names for this field, None if `text` names another field."""
    if known.inherits and not known.is_switched:
        return None  # its one field is also a field of every policy
    if not known.has_instances:
        return "" if text == "_".join(known.key(field)) else None
    missing = DEFAULT if known.inherits else _NAME
    head, _, *middle = known.words
    tail = "_".join((*middle, field))
    if known.inherits and text == tail:
        return missing
    if text.startswith(f"{head}_") and text.endswith(f"_{tail}"):
        return text[len(head) + 1 : -len(tail) - 1] or missing
    return None


_FLOOR = 0.6
"""Words that are less alike are unrelated."""


def alike(word: str, other: str) -> float:
    """Return how alike two words are: 1 for the same word, 0 for unrelated words."""
    ratio = difflib.SequenceMatcher(None, word, other).ratio()
    return ratio if ratio >= _FLOOR else 0.0


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the word of `known` that is most alike, or "" if all are unrelated."""
    ratio, best = max(((alike(word, each), each) for each in known), default=(0.0, ""))
    return best if ratio else ""
