"""`python -m resilience`: breakers, demo, config, codes, doctor, metrics, status."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence

from resilience._version import __version__
from resilience.cli import breakers, codes, config, demo, doctor, metrics, status
from resilience.cli.answer import CommandOutput, Paint
from resilience.errors import ResilienceError

__all__ = ("main",)

INTERRUPTED = 130
PIPE_CLOSED = 141

_COMMANDS = {
    "breakers": breakers,
    "config": config,
    "codes": codes,
    "doctor": doctor,
    "metrics": metrics,
    "status": status,
}
_HELP = {
    "breakers": "list the shared circuit breakers, and override them in all instances",
    "demo": "watch the toolkit guard a small shop while its supplier breaks down",
    "config": "print every setting in force and its source",
    "codes": "print the error codes a client may see",
    "doctor": "check this machine: Python, extras, configuration, Redis",
    "metrics": "print the metrics, or the alerts and the dashboard for them",
    "status": "print the circuits, limits and checks of a running service",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0 success, 1 a problem (on standard error), 2 wrong usage."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except ResilienceError as error:
        print(f"resilience: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _stop_writing()
        return PIPE_CLOSED


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of the program and the parsers of the commands: a mistake prints the usage of its command."""
    parser = argparse.ArgumentParser("resilience", description="Guards for existing web services.")
    parser.add_argument("--version", action="version", version=f"resilience-plugins {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    commands.add_parser("demo", help=_HELP["demo"], add_help=False)
    for name, command in _COMMANDS.items():
        about = _HELP[name]
        command.configure(commands.add_parser(name, help=about, description=f"{about[:1].upper()}{about[1:]}."))
    return parser, commands.choices


def _run(argv: list[str]) -> int:
    parser, commands = _parsers()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "demo":
        return demo.run(rest)
    if rest:
        commands[arguments.command].error(f"unrecognized arguments: {' '.join(rest)}")  # in argparse's own spelling
    run: Callable[[argparse.Namespace, Paint], CommandOutput] = _COMMANDS[arguments.command].run
    answer = run(arguments, Paint(is_on=_has_colours()))
    _show(answer)
    return answer.status


def _show(answer: CommandOutput) -> None:
    for warning in answer.warnings:
        print(f"resilience: {warning}", file=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a value may have characters that this terminal cannot show
    sys.stdout.write(answer.text)
    sys.stdout.flush()


def _has_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _stop_writing() -> None:
    """Point standard output at nothing, so that the interpreter's last flush does not complain either."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    raise SystemExit(main())
