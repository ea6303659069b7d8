import doctest
import subprocess
import sys

import pytest

import resilience_grpc


def said(hidden: str, code: str) -> str:
    hide = f"import sys; sys.modules[{hidden!r}] = None\n"
    done = subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("hidden", ["grpc", "google.rpc", "grpc_health"])
def test_missing_framework_is_named_with_its_extra(hidden: str) -> None:
    """Without all of gRPC the adapter says what to install, imported by name or loaded as a plugin."""
    assert said(hidden, "import resilience_grpc").endswith('pip install "resilience-plugins[grpc]"')
    loaded = said(hidden, "from resilience import plugins; plugins.load('resilience.adapters', 'grpc')")
    assert 'pip install "resilience-plugins[grpc]"' in loaded


def test_names_are_loaded_when_they_are_used() -> None:
    """Every public name can be imported. A wrong name raises AttributeError."""
    for name in resilience_grpc.__all__:
        assert getattr(resilience_grpc, name).__doc__
    assert set(resilience_grpc.__all__) <= set(dir(resilience_grpc))
    with pytest.raises(AttributeError, match="no attribute 'intercept'"):
        _ = resilience_grpc.intercept


@pytest.mark.parametrize("name", [name for name in resilience_grpc.__all__ if name[0].islower()])
def test_examples_of_public_names_run(name: str) -> None:
    """Every example in the docstring of a public function does what it shows."""
    function = getattr(resilience_grpc, name)
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder(recurse=False).find(function, name, globs=dict(function.__globals__)):
        assert runner.run(test).failed == 0
