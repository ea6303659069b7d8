"""Values and settings as text: as a person writes them into a variable, and as the reference of all variables."""

from __future__ import annotations

import json
from collections.abc import Iterator

from resilience.config._names import dotted, variable
from resilience.config._schema import SECTIONS, Section
from resilience.options import Duration, Rule, rule_of

__all__ = ("reference", "written")

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"))


def written(value: object, rule: Rule) -> str:
    """Return `value` as text that the rule reads back: `100ms`, `true`, `a,b`, `none`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return _list([str(item) for item in value])
    if isinstance(value, float):
        return _duration(value) if isinstance(rule, Duration) else f"{value:.12g}"
    return str(value)


def _list(items: list[str]) -> str:
    is_plain = items and all("," not in item and item == item.strip() and item for item in items)
    return ",".join(items) if is_plain and not items[0].startswith("[") else json.dumps(items)


def _duration(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    if seconds >= 1 or seconds == 0:
        return f"{_digits(seconds)}s"
    milliseconds = seconds * 1e3
    return f"{_digits(milliseconds)}ms" if milliseconds >= 1 else f"{_digits(milliseconds * 1e3)}us"


def _digits(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")


_NAME = "<NAME>"


def reference() -> str:
    """Return one Markdown table per section: variable, default, accepted values, effect."""
    return "\n".join(line for section in SECTIONS for line in _section(section))


def _section(section: Section) -> Iterator[str]:
    path = dotted(tuple(word if word != "*" else _NAME.lower() for word in section.words))
    yield f"### {f'`{path}`' if path else 'The loader itself'}\n"
    yield f"{(section.options.__doc__ or '').splitlines()[0]}\n"
    if section.builds:
        yield f"In code: `{section.builds.rpartition(':')[2]}` of `{section.builds.partition(':')[0]}`.\n"
    yield "| variable | default | accepts | what it does |"
    yield "|---|---|---|---|"
    for name, field in section.fields.items():
        rule, none = rule_of(field), field.metadata["none"]
        accepts = rule.expected + (f", or none ({none})" if none else "")
        cells = (
            f"`{variable(section.key(name, _NAME))}`",
            _default(field.default, rule),
            accepts,
            field.metadata["doc"],
        )
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _default(value: object, rule: Rule) -> str:
    return f"`{written(value, rule)}`"
