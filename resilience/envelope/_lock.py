"""The lock file of the codes: a code can be added, but not removed, and its meaning never changes."""

from __future__ import annotations

import json
from collections.abc import Iterator

from resilience.envelope._catalog import ErrorCatalog
from resilience.envelope._definition import ErrorDefinition
from resilience.errors import ConfigurationError, Problem

__all__ = ("changes_since", "lock_of")

_VERSION = 1
_MEANING = {"http_status": int, "grpc_status": str, "category": str, "retryable": bool}


def lock_of(catalog: ErrorCatalog) -> str:
    """Return the lock file of a catalogue: the meaning of every code, one to a line, in order."""
    lines = [
        f"    {json.dumps(one.code)}: {json.dumps(_meaning(one))}" for one in sorted(catalog, key=lambda one: one.code)
    ]
    return f'{{\n  "version": {_VERSION},\n  "codes": {{\n' + ",\n".join(lines) + "\n  }\n}\n"


def changes_since(lock: str, catalog: ErrorCatalog) -> tuple[list[str], list[str]]:
    """Return the changes that break clients (codes removed, or with another meaning), and the new codes.

    Raises `ConfigurationError` for text that is no lock file.
    """
    locked = _read(lock)
    now = {one.code: _meaning(one) for one in catalog}
    broken = [f"{code} is gone" for code in sorted(locked.keys() - now.keys())]
    broken += [
        f"{code}: {name} was {_shown(locked[code].get(name))}, is {_shown(now[code][name])}"
        for code in sorted(locked.keys() & now.keys())
        for name in _changed(locked[code], now[code])
    ]
    return broken, sorted(now.keys() - locked.keys())


def _meaning(one: ErrorDefinition) -> dict[str, object]:
    return {name: getattr(one, name) for name in _MEANING}


def _changed(before: dict[str, object], after: dict[str, object]) -> Iterator[str]:
    return (name for name in _MEANING if before.get(name) != after[name])


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read(lock: str) -> dict[str, dict[str, object]]:
    try:
        content = json.loads(lock)
    except (ValueError, RecursionError):
        content = None
    codes = content.get("codes") if isinstance(content, dict) and content.get("version") == _VERSION else None
    if not isinstance(codes, dict) or not all(_is_meaning(meaning) for meaning in codes.values()):
        raise ConfigurationError([Problem("lock file", lock[:80], "what `codes --lock` writes")])
    return codes


def _is_meaning(found: object) -> bool:
    return isinstance(found, dict) and all(type(found.get(name)) is kind for name, kind in _MEANING.items())
