"""`codes`: the errors a service may send to its clients."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resilience.cli.answer import Answer, Paint
from resilience.config import ConfigurationWarning, load
from resilience.errors import ConfigurationError, PluginError
from resilience.toolkit import Resilience

if TYPE_CHECKING:
    import argparse

__all__ = ("configure", "run")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument(
        "--app",
        metavar="MODULE:ATTRIBUTE",
        help="an ErrorCatalog of the service, or an object that has one as .catalog",
    )


def run(arguments: argparse.Namespace, _paint: Paint) -> Answer:
    """Print the catalogue of the service, or the toolkit's own codes when none is named."""
    catalog = _own() if arguments.app is None else _catalog(arguments.app)
    text = catalog.json() if arguments.json else catalog.markdown()
    return Answer(text if text.endswith("\n") else text + "\n")


def _own() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigurationWarning)  # `config` is where typing mistakes are told
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
