"""Names, and what is said where a library is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import resilience_http
import resilience_http.httpx2
from resilience import plugins

WITHOUT = """
import sys
sys.modules["{library}"] = None
import resilience_http
resilience_http.{other}
try:
    from {package} import {name}
except ModuleNotFoundError as error:
    print(error.name, error)
"""


@pytest.mark.parametrize(
    ("library", "package", "name", "other"),
    [
        ("httpx2", "resilience_http.httpx2", "ResilienceTransport", "ResilienceTransport"),
        ("httpx2", "resilience_http.httpx2", "AsyncResilienceTransport", "ResilienceAdapter"),
        ("httpx", "resilience_http.httpx", "ResilienceTransport", "ResilienceAdapter"),
        ("httpx", "resilience_http", "AsyncResilienceTransport", "ResilienceAdapter"),
        ("requests", "resilience_http", "ResilienceAdapter", "ResilienceTransport"),
    ],
)
def test_missing_library_is_named(library: str, package: str, name: str, other: str) -> None:
    """Each name needs its own library alone; without it the error says which extra to install."""
    code = WITHOUT.format(library=library, package=package, name=name, other=other)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.startswith(f"{library} {package}.{name} needs {library}")
    assert f"resilience-plugins[{library}]" in done.stdout


def test_import_costs_nothing() -> None:
    """Importing the package imports neither library."""
    packages = "resilience_http, resilience_http.httpx, resilience_http.httpx2"
    code = f"import sys, {packages}; print({{'httpx', 'httpx2', 'requests'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "set()"


def test_names() -> None:
    """Every name is there, shown by `dir`, and no other is."""
    for name in resilience_http.__all__:
        assert getattr(resilience_http, name).__doc__
    assert set(resilience_http.__all__) <= set(dir(resilience_http))
    with pytest.raises(AttributeError, match="no attribute 'Transport'"):
        _ = resilience_http.Transport


def test_asyncio_is_for_awaiting_clients() -> None:
    """A program with a blocking client does not import asyncio."""
    without = "import sys; sys.modules['redis'] = None"  # it imports asyncio itself
    code = f"{without}; from resilience_http.httpx2 import ResilienceTransport; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "False"


def test_plugins() -> None:
    """Each is found by the name of its library."""
    assert plugins.load("resilience.adapters", "httpx") is resilience_http.ResilienceTransport
    assert plugins.load("resilience.adapters", "httpx2") is resilience_http.httpx2.ResilienceTransport
    assert plugins.load("resilience.adapters", "requests") is resilience_http.ResilienceAdapter
