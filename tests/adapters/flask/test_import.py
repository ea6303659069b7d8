import subprocess
import sys

HIDDEN = "import sys; sys.modules['flask'] = None\n"


def said(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN + code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_missing_framework_is_named_with_its_extra() -> None:
    """Without Flask the adapter says what to install, imported by name or loaded as a plugin."""
    assert said("import resilience_flask").endswith(
        'resilience_flask needs Flask: pip install "resilience-plugins[flask]"'
    )
    loaded = said("from resilience import plugins; plugins.load('resilience.adapters', 'flask')")
    assert "'flask' is not installed" in loaded
    assert 'pip install "resilience-plugins[flask]"' in loaded
