"""Decide which value of each setting is in force. Pure.

A reading has the entries of one source: the arguments of the caller, the environment, or a file. The sources come in
this order, and the first entry of a setting is in force; a setting without an entry has its default. Each entry is
checked by the rule of its option, also if a stronger source hides it: a mistake in a file is reported even if a
variable corrects it.

A section describes the settings of one options class. A section with instances (`pipeline.*.retry`) has its own
settings for each name. Pipelines inherit: a value of the instance `default` is in force in each pipeline that does
not set it. A policy is on if at least one of its settings is set, unless `enabled` is false. A client has the same
settings, and below those of `default` a layer of its own, which gives it a retry and a breaker (`_client_layer.py`).

When all values are known, the options of each section are built once, which checks the rules between fields. If a
value of a section is wrong, the rules between its fields are not checked: their problems would only repeat the first
one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from resilience._support.redaction import redacted
from resilience.config import _schema
from resilience.config._names import Key, variable
from resilience.config._problems import Missing, Unlikely
from resilience.config._read import Entry, Reading
from resilience.config._render import written
from resilience.config._schema import DEFAULT, Section
from resilience.errors import ConfigurationError, Problem
from resilience.options import Duration, Options, Refused, rule_of

__all__ = ("LayerValue", "Settled", "Value", "build", "effective", "instances", "settle", "unlikely")

Field = dataclasses.Field[Any]


class Value(NamedTuple):
    """The value of a setting in its working form, and the entry that it comes from."""

    value: object
    entry: Entry


class LayerValue(NamedTuple):
    """A value that a policy has below all settings. `unless` names settings that replace it."""

    pattern: str
    field: str
    value: object
    source: str
    unless: frozenset[str] = frozenset()


_REDIS_URL: Key = ("redis", "url")
Settled = Mapping[Key, Value]
"""Every setting that was set. All others have their defaults."""


def settle(readings: Iterable[Reading]) -> tuple[Settled, list[Problem]]:
    """Return the values in force, and every problem. Earlier readings come before later ones."""
    problems: list[Problem] = []
    settled: dict[Key, Value] = {}
    spoiled: set[Key] = set()
    for reading in readings:
        problems += reading.problems
        for key, entry in reading.entries.items():
            try:
                value = Value(_checked(_field(key), entry), entry)
            except Refused as error:  # a mistake is reported even if a stronger source hides it
                problems.append(_refused(_field(key), entry, str(error)))
                spoiled.add(key)
            else:
                settled.setdefault(key, value)
    return settled, [*problems, *_problems_together(settled, spoiled), *_without_redis(settled, spoiled)]


def unlikely(settled: Settled) -> list[Problem]:
    """Return the durations in force that look like milliseconds."""
    found: list[Problem] = []
    for key, value in settled.items():
        rule = rule_of(_field(key))
        if isinstance(rule, Duration) and rule.is_unusual(value.entry.raw):
            found.append(Unlikely(value.entry.spelled, str(value.entry.raw).strip()))
    return found


def _field(key: Key) -> Field:
    found = _schema.find(key)
    assert found is not None  # noqa: S101 - a reading holds only keys that exist
    return found.fields[key[-1]]


def _checked(field: Field, entry: Entry) -> object:
    if entry.fault:
        raise Refused
    raw, rule = entry.raw, rule_of(field)
    text = raw if isinstance(raw, str) and entry.origin != "argument" else None
    is_none = raw is None or (text is not None and text.lower() == "none")
    if is_none and field.metadata["none"] is not None:
        return None
    if text is not None:
        return rule.parse(text)
    return rule.check(raw)


def _refused(field: Field, entry: Entry, reason: str) -> Problem:
    hint = reason or _default(field)
    return Problem(entry.spelled, _shown(field, entry.raw), entry.fault or _expected(field), hint)


def _shown(field: Field, value: object) -> object:
    return redacted(value, secret=field.metadata["secret"])


def _expected(field: Field) -> str:
    none = field.metadata["none"]
    return rule_of(field).expected + (f", or none ({none})" if none else "")


def _default(field: Field) -> str:
    return f"default {written(field.default, rule_of(field)) or 'empty'}"


def instances(settled: Settled, prefix: str) -> tuple[str, ...]:
    """Return the names below `prefix` (`pipeline`, `limiter`) that have settings, sorted, `default` first."""
    names = {key[1] for key in settled if key[0] == prefix and len(key) > 2}  # noqa: PLR2004 - section, name, field
    return tuple(sorted(names, key=lambda name: (name != DEFAULT, name)))


def effective(
    settled: Settled, section: Section, instance: str = "", below: Iterable[LayerValue] = ()
) -> dict[str, Value]:
    """Return the values of one section that were set, field by field.

    A value that an instance has itself comes before the value that it inherits. Values of the layer `below` come last.
    """
    found: dict[str, Value] = {}
    for path in section.paths(instance):
        # Not over the fields of the section: that would import a package that no setting mentions.
        found.update((key[-1], value) for key, value in settled.items() if key[:-1] == path)
    return _above(below, section, found) | found if below else found


def _above(below: Iterable[LayerValue], section: Section, found: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values of the layer for this section, without those that a value above replaces."""
    return {
        each.field: Value(each.value, Entry(each.value, "argument", each.field, each.source))
        for each in below
        if each.pattern == section.pattern and found.keys().isdisjoint(each.unless)
    }


def build(settled: Settled, section: Section, instance: str = "", below: Iterable[LayerValue] = ()) -> Options | None:
    """Return the options of one section, or None for a policy without settings or with `enabled` false."""
    values = {field: value.value for field, value in effective(settled, section, instance, below).items()}
    if section.is_switched and (not values or not values.pop("enabled", True)):
        return None
    return section.options(**values)


def _problems_together(settled: Settled, spoiled: set[Key]) -> Iterator[Problem]:
    """Yield each problem of values that are wrong only in combination, under the name of a variable that was set."""
    seen = set()
    for section, instance in _mentioned(settled):
        if any(key[:-1] in (section.path(instance), section.path(DEFAULT)) for key in spoiled):
            continue  # with one of its values unknown, the rest cannot be judged
        for problem in _problems_of(settled, section, instance):
            if str(problem) not in seen:
                seen.add(str(problem))
                yield problem


_SHARED = frozenset({("pipeline", "breaker", "shared"), ("budget", "shared")})
_LEASED = frozenset({("pipeline", "rate_limit", "lease"), ("limiter", "lease")})
"""The options, without the name of the instance, that need Redis."""


def _without_redis(settled: Settled, spoiled: set[Key]) -> Iterator[Problem]:
    """Yield a problem for each breaker or budget that is shared, and each lease, although no Redis is configured."""
    if settled.keys() & {_REDIS_URL} or _REDIS_URL in spoiled:
        return
    for key, value in settled.items():
        option = (key[0], *key[2:])
        if option in _SHARED and value.value is True:
            yield Problem(value.entry.spelled, True, f"false, unless {variable(_REDIS_URL)} is set")
        elif option in _LEASED and value.value is not None:
            yield Problem(value.entry.spelled, value.value, f"nothing, unless {variable(_REDIS_URL)} is set")


def _mentioned(settled: Settled) -> Iterator[tuple[Section, str]]:
    paths = {key[:-1] for key in settled}
    names = {prefix: instances(settled, prefix) for prefix in {path[0] for path in paths if path}}
    for section in _schema.SECTIONS:
        for name in names.get(section.words[0], ()) if section.has_instances else ("",):
            # A name without values of its own would only repeat the problems of those that it inherits.
            if section.path(name) in paths:
                yield section, name


def _problems_of(settled: Settled, section: Section, instance: str) -> Iterator[Problem]:
    try:
        options = build(settled, section, instance)
    except ConfigurationError as error:
        found = effective(settled, section, instance)
        for problem in error.problems:
            yield _renamed(problem, section, instance, found.get(problem.option))
        return
    if options is not None and section.needs and getattr(options, section.needs) is None:
        yield _lacking(settled, section, instance)


def _renamed(problem: Problem, section: Section, instance: str, value: Value | None) -> Problem:
    field = section.fields[problem.option]
    spelled = value.entry.spelled if value is not None else variable(section.key(problem.option, instance))
    return Problem(spelled, _shown(field, problem.value), problem.expected, _default(field))


def _lacking(settled: Settled, section: Section, instance: str) -> Problem:
    """Return the problem of a limit without a rate, which must not mean unlimited."""
    found, needs = effective(settled, section, instance), section.needs
    others = ", ".join(value.entry.spelled for field, value in found.items() if field != needs)
    spelled = found[needs].entry.spelled if needs in found else variable(section.key(needs, instance))
    expected = rule_of(section.fields[needs]).expected + (f", because {others} is set" if others else "")
    hint = f"{variable(section.key('enabled', instance))}=false takes it away" if section.is_switched else ""
    return Missing(spelled, expected, hint)
