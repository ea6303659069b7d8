"""Names, and what is said where a library is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import resilience_http
from resilience import plugins

WITHOUT = """
import sys
sys.modules["{library}"] = None
import resilience_http
resilience_http.{other}
try:
    resilience_http.{name}
except ModuleNotFoundError as error:
    print(error.name, error)
"""


@pytest.mark.parametrize(
    ("library", "name", "other"),
    [
        ("httpx", "ResilienceTransport", "ResilienceAdapter"),
        ("httpx", "AsyncResilienceTransport", "ResilienceAdapter"),
        ("requests", "ResilienceAdapter", "ResilienceTransport"),
    ],
)
def test_missing_library_is_named(library: str, name: str, other: str) -> None:
    """Each name needs its own library alone; without it the error says which extra to install."""
    code = WITHOUT.format(library=library, name=name, other=other)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.startswith(f"{library} resilience_http.{name} needs {library}")
    assert f"resilience-plugins[{library}]" in done.stdout


def test_import_costs_nothing() -> None:
    """Importing the package imports neither library."""
    code = "import sys, resilience_http; print({'httpx', 'requests'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "set()"


def test_names() -> None:
    """Every name is there, shown by `dir`, and no other is."""
    for name in resilience_http.__all__:
        assert getattr(resilience_http, name).__doc__
    assert set(resilience_http.__all__) <= set(dir(resilience_http))
    with pytest.raises(AttributeError, match="no attribute 'Transport'"):
        _ = resilience_http.Transport


def test_plugins() -> None:
    """Both are found by name."""
    assert plugins.load("resilience.adapters", "httpx") is resilience_http.ResilienceTransport
    assert plugins.load("resilience.adapters", "requests") is resilience_http.ResilienceAdapter
