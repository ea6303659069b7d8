"""`demo`: the toolkit at work on a small shop whose supplier breaks down."""

from __future__ import annotations

import importlib

from resilience.errors import PluginError

__all__ = ("run",)


def run(arguments: list[str]) -> int:
    """Run the demo with its own arguments. Raises `PluginError` if a package that it needs is not installed."""
    try:
        status = importlib.import_module("resilience_demo").main(arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"resilience", "resilience_demo"}:
            raise
        raise PluginError(f'the demo needs {error.name}: pip install "resilience-plugins[demo]"') from error
    return int(status or 0)
