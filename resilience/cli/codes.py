"""`codes`: the errors a service may send to its clients."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resilience.cli.answer import CommandOutput, Paint
from resilience.config import ConfigurationWarning, load
from resilience.errors import ConfigurationError, PluginError
from resilience.toolkit import Resilience

if TYPE_CHECKING:
    import argparse

__all__ = ("configure", "run")

LOCK_FILE = "error-codes.lock.json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument(
        "--app",
        metavar="MODULE:ATTRIBUTE",
        help="an ErrorCatalog of the service, or an object that has one as .catalog",
    )

    lock = parser.add_mutually_exclusive_group()
    lock.add_argument(
        "--check",
        nargs="?",
        const=LOCK_FILE,
        metavar="FILE",
        help=f"fail when a code of the lock file (default: {LOCK_FILE}) is gone or means something else",
    )
    lock.add_argument("--lock", nargs="?", const=LOCK_FILE, metavar="FILE", help="write the lock file")


def run(arguments: argparse.Namespace, paint: Paint) -> CommandOutput:
    """Print the catalogue of the service (the toolkit's own codes when none is named), check it, or write its lock."""
    catalog = _own() if arguments.app is None else _catalog(arguments.app)
    if arguments.check is not None:
        return _checked(Path(arguments.check), catalog, paint)
    if arguments.lock is not None:
        return _locked(Path(arguments.lock), catalog)
    text = catalog.json() if arguments.json else catalog.markdown()
    return CommandOutput(text if text.endswith("\n") else text + "\n")


def _checked(path: Path, catalog: Any, paint: Paint) -> CommandOutput:
    from resilience.envelope import changes_since  # noqa: PLC0415 - other commands do not need it

    try:
        lock = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--check {path}: {_reason(error)}; write it with --lock") from error
    try:
        broken, added = changes_since(lock, catalog)
    except ConfigurationError as error:
        raise ConfigurationError(f"--check {path}: not a lock file; write it with --lock") from error
    lines = [paint.bad("FAIL  ") + text for text in broken]
    lines += [paint.dim(f"new   {code}") for code in added]
    end = (
        f"{len(broken)} promise{'s' * (len(broken) > 1)} broken"
        if broken
        else "no code is gone, and none means something else"
    )
    more = f"; {len(added)} not in {path} yet: run --lock" if added else ""
    return CommandOutput("\n".join([*lines, f"{end}{more}."]) + "\n", status=1 if broken else 0)


def _locked(path: Path, catalog: Any) -> CommandOutput:
    from resilience.envelope import lock_of  # noqa: PLC0415 - imported by services that lock their codes

    try:
        path.write_text(lock_of(catalog), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--lock {path}: {_reason(error)}") from error
    return CommandOutput(f"{len(catalog)} codes written to {path}.\n")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or "it is not text")


def _own() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigurationWarning)  # `config` reports typing mistakes
        return Resilience(load()).catalog


def _catalog(path: str) -> Any:
    from resilience.envelope import ErrorCatalog  # noqa: PLC0415 - other commands do not need it

    found = _imported(path)
    catalog = found if isinstance(found, ErrorCatalog) else getattr(found, "catalog", None)
    if not isinstance(catalog, ErrorCatalog):
        raise ConfigurationError(f"--app {path}: expected an ErrorCatalog or an object with one as .catalog")
    return catalog


def _imported(path: str) -> Any:
    module, colon, attribute = path.partition(":")
    if not (module and colon and attribute):
        raise ConfigurationError(f"--app {path}: expected MODULE:ATTRIBUTE, such as shop.errors:catalog")
    sys.path.insert(0, str(Path.cwd()))  # an installed script, unlike `python -m`, does not look here by itself
    try:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"--app {path}: {error}") from error
    return found
