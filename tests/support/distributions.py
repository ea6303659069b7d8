"""Installed distributions of third parties: real metadata and real modules, on a path of their own."""

from __future__ import annotations

import contextlib
import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

__all__ = ("Install", "on_path")

Install: TypeAlias = Callable[[str, str, str, str], None]
"""Installs a distribution: its name, the group and the text of its entry point, the source of `<name>_module`."""


@contextlib.contextmanager
def on_path(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that installs distributions; they are gone after the block."""
    monkeypatch.syspath_prepend(str(directory))

    def install(name: str, group: str, entry_point: str, source: str) -> None:
        word = name.replace("-", "_")
        info = directory / f"{word}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry_point}\n")
        (directory / f"{word}_module.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()

    yield install
    for module in [name for name in sys.modules if name.endswith("_module")]:
        del sys.modules[module]
