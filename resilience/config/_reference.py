"""The reference of all variables, made from the same table the loader works with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from resilience.config._names import dotted, variable
from resilience.config._schema import SECTIONS, Section
from resilience.config._text import written
from resilience.options import rule_of

__all__ = ("reference",)

_NAME = "<NAME>"


def reference() -> str:
    """Return one Markdown table a section: variable, default, what is accepted, what it does."""
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


def _default(value: Any, rule: Any) -> str:
    return f"`{written(value, rule)}`"
