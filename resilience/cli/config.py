"""`config`: every setting in force and its source."""

from __future__ import annotations

import dataclasses
import json
import warnings
from itertools import groupby
from typing import TYPE_CHECKING

from resilience.cli.answer import CommandOutput, Paint
from resilience.config import Config, ConfigurationWarning, Setting, load
from resilience.config._client_layer import CLIENT_DEFAULT
from resilience.config._render import reference

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

__all__ = ("configure", "run")

_WIDEST_VALUE = 32
_DEFAULTS = frozenset({"default", CLIENT_DEFAULT})


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON; durations in seconds")
    form.add_argument("--reference", action="store_true", help="print the reference of all variables as Markdown")
    parser.add_argument(
        "--pipeline", metavar="NAME", help="only the settings of this pipeline, inherited ones included"
    )
    parser.add_argument("--strict", action="store_true", default=None, help="fail on unknown variables")


def run(arguments: argparse.Namespace, paint: Paint) -> CommandOutput:
    """Print the configuration of the environment this runs in. Raises `ConfigurationError` when it is bad."""
    if arguments.reference:
        return CommandOutput(reference())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigurationWarning)  # said below, in fewer words
        config = load(strict=arguments.strict)
    settings = config.values(pipeline=arguments.pipeline)
    if arguments.json:
        return CommandOutput(_json(settings, [str(problem) for problem in (*config.unknown, *config.unlikely)]))
    notes = (*(f"ignored {problem}" for problem in config.unknown), *map(str, config.unlikely))
    text = "\n".join(_table(settings, paint)) if settings else _nothing(config, arguments.pipeline)
    return CommandOutput(text + "\n", warnings=notes)


def _json(settings: Iterable[Setting], notes: list[str]) -> str:
    rows = [dataclasses.asdict(setting) for setting in settings]
    return json.dumps({"settings": rows, "warnings": notes}, indent=2) + "\n"


def _nothing(config: Config, name: str) -> str:
    known = f"; configured: {', '.join(config.pipelines)}" if config.pipelines else ""
    return f"Nothing is configured for the pipeline {name!r}, so its calls pass through unchanged{known}."


def _table(settings: tuple[Setting, ...], paint: Paint) -> Iterator[str]:
    # Names of pipeline settings are much longer than the others; apart, both fit into 100 columns.
    own = [setting for setting in settings if setting.source != CLIENT_DEFAULT]
    for _, part in groupby(own, key=lambda setting: setting.section.startswith(("pipeline", "pool"))):
        yield from _aligned(list(part), paint)
    if of_clients := [setting for setting in settings if setting.source == CLIENT_DEFAULT]:
        yield "Below these, in HTTP and gRPC clients of a pipeline but not in its functions and blocks:"
        yield ""
        yield from _aligned(of_clients, paint)
    count = sum(setting.source not in _DEFAULTS for setting in settings)
    yield f"{count} of {len(settings)} set; the others have their defaults."


def _aligned(settings: list[Setting], paint: Paint) -> Iterator[str]:
    widths = _widths(settings)
    yield paint.bold(_row(_TITLES, widths))
    for _, group in groupby(settings, key=lambda setting: setting.section):
        for setting in group:
            line = _row(_cells(setting), widths)
            yield paint.dim(line) if setting.source in _DEFAULTS else line
        yield ""


def _row(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


_TITLES = ("VARIABLE", "VALUE", "SOURCE", "DEFAULT")


def _widths(settings: Iterable[Setting]) -> list[int]:
    rows = [_TITLES, *(_cells(setting) for setting in settings)]
    widest = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [widest[0], min(widest[1], _WIDEST_VALUE), widest[2], 0]


def _cells(setting: Setting) -> tuple[str, str, str, str]:
    is_default = setting.source == "default"
    return setting.variable, _shown(setting.text), _source(setting), "" if is_default else _shown(setting.default_text)


def _source(setting: Setting) -> str:
    """Name the source briefly: the variable's own name needs no repeating."""
    if setting.source == setting.variable:
        return "environment"
    if setting.source.upper().startswith("RESILIENCE_PIPELINE__DEFAULT__"):
        return "pipeline DEFAULT"  # 100 columns have no room for the variable
    return setting.source


def _shown(text: str) -> str:
    """Return `text` on one line: a value may hold anything the environment can."""
    return text if text.isprintable() else repr(text)[1:-1]
