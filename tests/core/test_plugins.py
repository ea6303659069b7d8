import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributions
import pytest

from resilience import Bulkhead, PluginError, plugins

POLICIES = "resilience.policies"
EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin_policy.py"


def test_built_in_policies_are_plugins() -> None:
    """Built-in policies are listed and loaded by the same road as anybody else's."""
    listed = {plugin.name: plugin.distribution for plugin in plugins.available(POLICIES)}
    assert listed["bulkhead"] == "resilience-plugins"
    assert plugins.load(POLICIES, "bulkhead") is Bulkhead
    assert "bulkhead = resilience.bulkhead:Bulkhead" in repr(plugins.available(POLICIES)[0])


def test_every_advertised_policy_loads() -> None:
    """Each entry point of ours points at something that has a policy's shape."""
    for plugin in plugins.available(POLICIES):
        assert plugins.load(POLICIES, plugin.name)


def test_unknown_names_are_answered_with_what_there_is() -> None:
    """An unknown plugin or group is refused with the names that exist."""
    with pytest.raises(PluginError, match=r"no plugin 'bulkhed'.*installed: bulkhead, "):
        plugins.load(POLICIES, "bulkhed")
    with pytest.raises(PluginError, match=r"unknown plugin group 'x'; one of resilience\.policies"):
        plugins.available("x")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make distributions on a path of their own: real metadata, real modules."""
    with distributions.on_path(tmp_path, monkeypatch) as install:
        yield lambda name, entry_point, source="": install(name, POLICIES, entry_point, source)


def test_name_claimed_twice_is_refused(site: Any) -> None:
    """Two distributions with one name are both named, and neither is picked."""
    site("first", "same = first_module:Policy")
    site("second", "same = second_module:Policy")
    with pytest.raises(PluginError, match="claimed by first and second"):
        plugins.load(POLICIES, "same")


def test_failing_imports_are_explained(site: Any) -> None:
    """A missing module is named; any other failure is shown, with its cause attached."""
    site("lost", "lost = lost_module:Policy", "import a_framework_nobody_has")
    site("sick", "sick = sick_module:Policy", "1 / 0")
    with pytest.raises(PluginError, match="'a_framework_nobody_has' is not installed"):
        plugins.load(POLICIES, "lost")
    with pytest.raises(PluginError, match="ZeroDivisionError") as caught:
        plugins.load(POLICIES, "sick")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_missing_framework_of_our_own_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """For our own adapters the extra to install is named."""

    def load() -> Any:
        raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")

    dist = SimpleNamespace(name="resilience-plugins")
    point = SimpleNamespace(group="resilience.adapters", name="fastapi", value="x:y", dist=dist, load=load)
    monkeypatch.setattr(plugins, "_entry_points", lambda _group: [point])
    with pytest.raises(PluginError, match=r'pip install "resilience-plugins\[fastapi\]"'):
        plugins.load("resilience.adapters", "fastapi")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("Policy = 3", "is not a class"),
        ("class Policy:\n    name = 'x'", r"has no admit\(\); it needs admit, on_success"),
        (
            """
            class Policy:
                def admit(self): ...
                def on_success(self, permit): ...
                def on_failure(self, permit, error): ...
                def on_abandon(self, permit): ...
            """,
            r"on_success\(self, permit\) cannot be called with 2 arguments",
        ),
        ("class Policy:\n    def around(self, call): ...", r"has no around_async\(\)"),
    ],
)
def test_wrong_shapes_are_refused_at_load(site: Any, source: str, message: str) -> None:
    """A plugin that is no policy is refused when it is loaded, and both shapes are shown."""
    site("odd", "odd = odd_module:Policy", source)
    with pytest.raises(PluginError, match=message):
        plugins.load(POLICIES, "odd")


def test_steps_may_be_any_kind_of_method(site: Any) -> None:
    """Static methods, class methods and builtins that do not tell their parameters are steps like any other."""
    source = """
    class Policy:
        name = "kinds"
        on_abandon = print
        on_success = max
        @staticmethod
        def admit(): ...
        @classmethod
        def on_failure(cls, permit, error): ...
    """
    site("kinds", "kinds = kinds_module:Policy", source)
    assert plugins.load(POLICIES, "kinds").__name__ == "Policy"


def test_policy_without_a_known_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point nobody owns is still listed."""
    point = SimpleNamespace(group=POLICIES, name="stray", value="x:y", dist=None)
    monkeypatch.setattr(plugins, "_entry_points", lambda _group: [point])
    assert plugins.available(POLICIES)[0].distribution == "an unknown distribution"


PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "example-quota-policy"
version = "1.0"

[project.entry-points."resilience.policies"]
quota = "plugin_policy:Quota"

[tool.hatch.build.targets.wheel]
only-include = ["plugin_policy.py"]
"""

USE = """
from resilience import Pipeline, plugins
Quota = plugins.load("resilience.policies", "quota")
assert Quota.__module__ == "plugin_policy", Quota
quota = Pipeline("reports", Quota(2))
print(quota.call(int, "7"), quota.call(int, "8"))
try:
    quota.call(int, "9")
except Exception as error:
    print(type(error).__name__, error.policy)
"""


def test_third_party_policy_really_installed(tmp_path: Path) -> None:
    """A policy somebody publishes is installed by pip into an environment of its own and loaded by its entry point."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "plugin_policy.py").write_text(EXAMPLE.read_text())
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=120)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(project)]
    subprocess.run(install, check=True, timeout=300, capture_output=True)
    paths = [path for path in sys.path if path]
    script = f"import sys; sys.path.extend({paths!r})\n{USE}"
    done = subprocess.run([str(python), "-c", script], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["7 8", "QuotaExhaustedError reports.quota"]
