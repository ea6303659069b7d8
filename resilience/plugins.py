"""Third-party policies, adapters and listeners, found by entry point and imported one at a time.

`available` lists plugins and imports none; `load` imports one. Nothing is discovered at `import resilience`, and
no function loads all plugins: some framework of the adapters is always missing.

Authors of policies find here the types beyond `resilience.policy`: `Steps`, the record that the engine makes of a
policy, and `KeyedPolicy` with its `Slot`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from resilience._engine._steps import KeyedPolicy, Slot, Steps
from resilience.errors import PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ("GROUPS", "KeyedPolicy", "Plugin", "Slot", "Steps", "available", "load")

GROUPS = ("resilience.policies", "resilience.adapters", "resilience.listeners")


class Plugin:
    """An installed entry point: group, name in configuration, target, and the distribution that has it."""

    __slots__ = ("distribution", "group", "name", "target")

    def __init__(self, group: str, name: str, target: str, distribution: str) -> None:
        self.group = group
        self.name = name
        self.target = target
        self.distribution = distribution

    def __repr__(self) -> str:
        return f"<Plugin {self.group} {self.name} = {self.target} ({self.distribution})>"


def available(group: str) -> tuple[Plugin, ...]:
    """Return the plugins of `group`, sorted by name. No plugin is imported.

    Raises:
        PluginError: The group is unknown.
    """
    return tuple(_described(point) for point in sorted(_entry_points(group), key=lambda point: point.name))


def load(group: str, name: str) -> Any:
    """Import the plugin `name` and return its object.

    Raises:
        PluginError: No plugin or two distributions have the name; the import fails (the error names a missing
            framework and its extra); or a policy does not have the methods of a policy.

    Example:
        >>> load("resilience.policies", "bulkhead").kind
        'bulkhead'
    """
    found = [point for point in _entry_points(group) if point.name == name]
    if not found:
        known = ", ".join(plugin.name for plugin in available(group)) or "none"
        raise PluginError(f"no plugin {name!r} in {group}; installed: {known}")
    if len(found) > 1:
        owners = " and ".join(sorted(_described(point).distribution for point in found))
        raise PluginError(f"plugin {name!r} in {group} is claimed by {owners}; uninstall one of them")
    loaded = _import(found[0])
    if group == "resilience.policies":
        _check_shape(_described(found[0]), loaded)
    return loaded


def _entry_points(group: str) -> Iterable[EntryPoint]:
    if group not in GROUPS:
        raise PluginError(f"unknown plugin group {group!r}; one of {', '.join(GROUPS)}")
    from importlib.metadata import entry_points  # noqa: PLC0415 - costs 30 ms, and few programs ask

    return entry_points(group=group)


def _described(point: EntryPoint) -> Plugin:
    owner = point.dist.name if point.dist is not None else "an unknown distribution"
    return Plugin(point.group, point.name, point.value, owner)


def _import(point: EntryPoint) -> Any:
    plugin = _described(point)
    try:
        return point.load()
    except ModuleNotFoundError as error:
        hint = f"{error.name!r} is not installed"
        if plugin.distribution == "resilience-plugins" and plugin.group == "resilience.adapters":
            hint += f'; install it with: pip install "resilience-plugins[{plugin.name}]"'
        raise PluginError(f"plugin {plugin.name!r} of {plugin.distribution} cannot be loaded: {hint}") from error
    except Exception as error:
        raise PluginError(f"plugin {plugin.name!r} of {plugin.distribution} failed to import: {error!r}") from error


_SHAPES = {
    "settling": {"admit": 0, "on_success": 2, "on_failure": 2, "on_abandon": 1},
    "around": {"around": 1, "around_async": 1},
}
"""The methods of the two kinds of policy and how many arguments the engine passes to each."""


def _check_shape(plugin: Plugin, loaded: Any) -> None:
    if not isinstance(loaded, type):
        raise PluginError(f"plugin {plugin.name!r} of {plugin.distribution} is not a class: {loaded!r}")
    shape = _SHAPES["around" if hasattr(loaded, "around") else "settling"]
    for method, arguments in shape.items():
        function = getattr(loaded, method, None)
        if function is None:
            wanted = ", ".join(shape)
            raise PluginError(f"policy {plugin.name!r} of {plugin.distribution} has no {method}(); it needs {wanted}")
        is_unbound = not isinstance(inspect.getattr_static(loaded, method), staticmethod | classmethod)
        try:
            inspect.signature(function).bind(*range(arguments + is_unbound))  # one more for self
        except ValueError:
            continue  # a builtin without a signature
        except TypeError:
            took = inspect.signature(function)
            text = f"{method}{took} cannot be called with {arguments} arguments"
            raise PluginError(f"policy {plugin.name!r} of {plugin.distribution}: {text}") from None
