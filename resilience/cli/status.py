"""`status`: the state of a running service, from the sockets of its processes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from resilience.cli.answer import CommandOutput, Paint
from resilience.config import ConfigurationWarning, load
from resilience.errors import ConfigurationError, one_line
from resilience.status import read_status, sockets_of

if TYPE_CHECKING:
    import argparse

__all__ = ("configure", "run")

State: TypeAlias = Mapping[str, Any]
"""What JSON can hold."""

_SOCKET = "RESILIENCE_STATUS__SOCKET"
_SAID = frozenset({"each", "kind", "name", "circuit"})
"""Fields that other parts of a line, or other lines, have."""
_USUAL: tuple[object, ...] = (None, "", [], {}, "automatic")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON; durations in seconds")
    parser.add_argument(
        "--socket", metavar="PATH", help=f"the path that the service has in {_SOCKET}; default: this variable"
    )


def run(arguments: argparse.Namespace, paint: Paint) -> CommandOutput:
    """Print the state of each process. Raises `ConfigurationError` if no path is given."""
    path = arguments.socket or _configured()
    if path is None:
        raise ConfigurationError(f"no socket to read: set {_SOCKET} as the service has it, or give --socket PATH")
    found = [_read(socket) for socket in sockets_of(path)]
    states = [state for state in found if not isinstance(state, str)]
    notes = tuple(text for text in found if isinstance(text, str))
    if arguments.json:
        return CommandOutput(json.dumps(states, indent=2) + "\n", status=0 if states else 1, warnings=notes)
    lines = [line for state in states for line in _process(state, paint)]
    text = "\n".join(lines) if states else f"No process shows its state on {one_line(path)}.*"
    return CommandOutput(text + "\n", status=0 if states else 1, warnings=notes)


def _configured() -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigurationWarning)
        return load().status.socket


def _read(socket: str) -> State | str:
    """Return the state of one process, or a text that says why it cannot be read."""
    try:
        state = read_status(socket)
    except (OSError, ValueError) as error:
        return f"{one_line(socket)}: {one_line(error)}"
    return cast("State", state) if isinstance(state, Mapping) else f"{one_line(socket)}: no status"


def _process(state: State, paint: Paint) -> Iterator[str]:
    error = f"  {_text(state['error'])} raised by a snapshot" if "error" in state else ""
    yield paint.bold(f"process {_text(state.get('pid'))}{error}")
    for toolkit in state.get("toolkits", ()):
        life = toolkit.get("lifecycle")
        yield f"  service {_text(toolkit['service'])}" + (f"  {_figures(life)}" if life else "")
        if toolkit.get("redis"):
            yield f"    redis  {_figures(toolkit['redis'])}"
        for pipeline in toolkit["pipelines"]:
            yield from _pipeline(pipeline, paint)
        for group in ("limiters", "pools", "budgets", "checks"):
            for part in toolkit.get(group, ()):  # a service of an older version has no pools
                yield f"    {group[:-1]} {_text(part['name'])}  {_figures(part)}"
    yield ""


def _pipeline(pipeline: State, paint: Paint) -> Iterator[str]:
    yield f"    pipeline {_text(pipeline['name'])}"
    for place, policies in (("", pipeline["policies"]), ("client ", pipeline.get("clients", ()))):
        for policy in policies:
            yield f"      {place}{_text(policy['kind'])}  {_painted(policy, paint)}"
            for key, figures in policy.get("each", {}).items():
                yield f"        {_text(key)}  {_painted(figures, paint)}"


def _painted(figures: State, paint: Paint) -> str:
    text = _figures(figures)
    return paint.bad(text) if figures.get("state") in ("open", "half-open") else text


def _figures(figures: State) -> str:
    """Return the figures that say something: not None, empty or the usual mode."""
    shown = {name: value for name, value in figures.items() if name not in _SAID and value not in _USUAL}
    return "  ".join(f"{_text(name)}={_text(value)}" for name, value in shown.items())


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return f"({_figures(cast('State', value))})"
    if isinstance(value, list):
        return ",".join(map(_text, cast("list[object]", value)))
    return f"{value:.4g}" if isinstance(value, float) else one_line(value)
