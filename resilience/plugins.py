"""Third-party policies, adapters and listeners, found by entry point and imported one at a time.

`available` lists plugins and imports none; `load` imports one. Nothing is discovered at `import resilience`, and
no function loads all plugins: some framework of the adapters is always missing.

Authors of policies find here the types beyond `resilience.policy`: `Steps`, the record that the engine makes of a
policy, and `KeyedPolicy` with its `Slot`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from resilience._engine._steps import KeyedPolicy, Slot, Steps
from resilience.errors import PluginError, described

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ("GROUPS", "KeyedPolicy", "Plugin", "Slot", "Steps", "available", "lazy_names", "load")

GROUPS = ("resilience.policies", "resilience.adapters", "resilience.listeners")
"""The entry-point groups in which a distribution can publish plugins."""


class Plugin:
    """An installed entry point.

    Args:
        group: Such as `resilience.policies`.
        name: Its name in configuration.
        target: The object that it names, as `module:attribute`.
        distribution: The installed package that declares it.
    """

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
        missing = (error.name or "").partition(".")[0]
        if plugin.distribution == "resilience-plugins" and plugin.group == "resilience.adapters":
            hint += f'; install it with: pip install "resilience-plugins[{plugin.name}]"'
        elif missing == plugin.target.partition(":")[0].partition(".")[0]:
            hint += f"; install {plugin.distribution} again: its entry point names this module"
        else:
            hint += f"; install the package that has it, such as: pip install {missing}"
        raise PluginError(f"{_named(plugin)} cannot be loaded: {hint}") from error
    except Exception as error:
        raise PluginError(f"{_named(plugin)} failed to import: {described(error)}") from error


def _named(plugin: Plugin) -> str:
    return f"plugin {plugin.name!r} ({plugin.target}) of {plugin.distribution}"


_SHAPES = {
    "settling": {"admit": 0, "on_success": 2, "on_failure": 2, "on_abandon": 1},
    "around": {"around": 1, "around_async": 1},
}
"""The methods of the two kinds of policy and how many arguments the engine passes to each."""


def _check_shape(plugin: Plugin, loaded: Any) -> None:
    import inspect  # noqa: PLC0415 - costs milliseconds, and few programs load a policy

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


def lazy_names(
    package: str, homes: Mapping[str, Iterable[str]], needs: Mapping[str, str] | None = None
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package that imports a module when one of its names is first used.

    So an adapter package costs nothing to import, and each of its names needs only its own framework.

    Args:
        package: The package: its `__name__`.
        homes: The public names of each module, by the module's name below the package.
        needs: The distribution that a module needs, by the module's name, if that is an extra of this library.

    Raises:
        ModuleNotFoundError: Raised by the returned `__getattr__` if the distribution is missing. It names the extra.

    Example:
        In the `__init__.py` of a package::

            __getattr__, __dir__ = lazy_names(__name__, {"_client": ("connect",)}, {"_client": "httpx"})
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def get_attribute(name: str) -> object:
        home = home_of.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value: object = getattr(importlib.import_module(f"{package}.{home}"), name)
        except ModuleNotFoundError as missing:
            needed = None if needs is None else needs.get(home)
            if missing.name is None or missing.name != needed:
                raise
            remedy = f'pip install "resilience-plugins[{needed}]"'
            raise ModuleNotFoundError(f"{package}.{name} needs {needed}: {remedy}", name=needed) from missing
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home_of})

    return get_attribute, list_names
