"""Writes the API reference: a page for each public module, with all names of its `__all__`, from the docstrings.

A name is described once, under the shortest path from which users import it. The pages are written to
`docs/api/`, which Git ignores.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx

__all__ = ("ADAPTERS", "Name", "has_docstring", "names", "public_modules", "setup")

ADAPTERS = ("resilience_fastapi", "resilience_flask", "resilience_grpc", "resilience_http", "resilience_sql")
_BASES = ("object", "Exception", "tuple", "dict", "Enum")
"""The bases, beside public classes, whose members the reference does not repeat."""
_LONGEST_VALUE = 120
_CODE = re.compile(r"(?<![`:\w])`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Name:
    """A public name: the module that lists it, and the path under which the reference describes it."""

    module: str
    name: str
    home: str

    @property
    def path(self) -> str:
        """The path under which users import the name."""
        return f"{self.home}.{self.name}"


def public_modules() -> list[str]:
    """Return the modules of the core and the adapters that list public names, except those of the command line."""
    found = ["resilience"]
    found += [
        f"resilience.{info.name}" for info in pkgutil.iter_modules(importlib.import_module("resilience").__path__)
    ]
    for adapter in ADAPTERS:
        parts = pkgutil.iter_modules(importlib.import_module(adapter).__path__, f"{adapter}.")
        found += [adapter, *(info.name for info in parts)]
    public = [name for name in found if not any(part.startswith("_") for part in name.split("."))]
    return [name for name in public if getattr(importlib.import_module(name), "__all__", ())]


@cache
def names() -> tuple[Name, ...]:
    """Return all public names."""
    modules = public_modules()
    return tuple(
        Name(module, name, _home_of(module, name, modules))
        for module in modules
        for name in importlib.import_module(module).__all__
        if not name.startswith("__")
    )


def _home_of(module: str, name: str, modules: list[str]) -> str:
    """Return the public module that a user imports the object of this name from."""
    value = getattr(importlib.import_module(module), name)
    same = [
        other
        for other in modules
        if name in importlib.import_module(other).__all__ and getattr(importlib.import_module(other), name) is value
    ]
    roots = [other for other in same if "." not in other]
    owner = [other for other in same if str(getattr(value, "__module__", "")).startswith(other)]
    return [*roots, *owner, *same][0]


def _page_of(home: str, name: str) -> str:
    """Return the page of a name: that of the part which owns it, for a name of the root."""
    if home != "resilience":
        return home
    others = [each.module for each in names() if each.name == name and each.home == home and each.module != home]
    value = getattr(importlib.import_module(home), name)
    owner = [module for module in others if str(getattr(value, "__module__", "")).startswith(module)]
    return [*owner, *others, home][0]


def has_docstring(name: Name) -> bool:
    """Whether the reference can say more of a name than its signature."""
    value = getattr(importlib.import_module(name.home), name.name)
    if inspect.isclass(value) or inspect.isroutine(value):
        return bool(value.__doc__)
    return bool(_assignment(name.home, name.name)[1])


def _write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    pages = {f"{module}.rst": "\n".join(_page(module)) for module in public_modules()}
    pages["index.rst"] = "\n".join(_index())
    for path in folder.glob("*.rst"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _index() -> Iterator[str]:
    yield from _title("API reference")
    yield "All public names, with their docstrings. A name of ``resilience`` is described with the part that owns it."
    yield from ("", ".. list-table::", "   :header-rows: 1", "", "   * - module", "     - about", "     - names")
    for module in public_modules():
        yield f"   * - :doc:`{module} <{module}>`"
        yield f"     - {_linked(_summary(importlib.import_module(module)))}"
        yield "     - " + ", ".join(f":py:obj:`{each.name} <{each.path}>`" for each in names() if each.module == module)
    yield from ("", ".. toctree::", "   :hidden:", "")
    yield from (f"   {module}" for module in public_modules())
    yield ""


def _page(module: str) -> Iterator[str]:
    yield from _title(module)
    yield from (f".. py:module:: {module}", "")
    yield _linked(inspect.getdoc(importlib.import_module(module)) or "")
    yield ""
    listed = [each for each in names() if each.module == module]
    for each in listed:
        if _page_of(each.home, each.name) == module:
            yield from _description(each)
    if elsewhere := [each for each in listed if _page_of(each.home, each.name) != module]:
        links = ", ".join(f":py:obj:`{each.name} <{each.path}>`" for each in elsewhere)
        yield from ("Described with the parts that own them: " + links + ".", "")


def _title(text: str) -> tuple[str, ...]:
    return text, "=" * len(text), ""


def _description(name: Name) -> Iterator[str]:
    value = getattr(importlib.import_module(name.home), name.name)
    yield from (name.name, "-" * len(name.name), "")
    if inspect.isclass(value):
        yield from (f".. autoclass:: {name.path}", "   :members:", "   :show-inheritance:")
        if not getattr(value, "_is_protocol", False):  # Sphinx asks for subclasses, which few protocols allow
            yield f"   :inherited-members: {', '.join(_described_bases(value))}"
    elif inspect.isroutine(value):
        yield f".. autofunction:: {name.path}"
    else:
        yield from _constant(name)
    yield ""


def _described_bases(value: type) -> Iterator[str]:
    """Yield the bases of a class whose members have a description of their own, so that it needs none here."""
    yield from _BASES
    yield from (
        base.__name__ for base in value.__mro__[1:] if base.__name__ in _paths() and base.__name__ != value.__name__
    )


def _constant(name: Name) -> Iterator[str]:
    """Describe a constant or alias by the text of its module, because the object itself has no docstring."""
    statement, doc = _assignment(name.home, name.name)
    yield from (f".. py:data:: {name.name}", f"   :module: {name.home}")
    if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.annotation) != "TypeAlias":
        yield f"   :type: {ast.unparse(statement.annotation)}"
    elif statement.value is not None and len(shown := ast.unparse(statement.value)) < _LONGEST_VALUE:
        yield f"   :value: {shown}"
    yield ""
    yield from (f"   {line}" for line in _linked(inspect.cleandoc(doc)).splitlines())


def _assignment(module: str, name: str) -> tuple[ast.Assign | ast.AnnAssign, str]:
    """Return the assignment of a name and the docstring below it, in the module that its imports lead to."""
    body = _statements(importlib.import_module(module))
    for node, below in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.ImportFrom(module=str(origin)) if any((a.asname or a.name) == name for a in node.names):
                return _assignment(origin, next(a.name for a in node.names if (a.asname or a.name) == name))
            case ast.Assign(targets=[ast.Name(id=found)]) | ast.AnnAssign(target=ast.Name(id=found)) if found == name:
                match below:
                    case ast.Expr(value=ast.Constant(value=str(doc))):
                        return node, doc
                return node, ""
    raise LookupError(f"{module} does not assign {name}")


def _statements(module: ModuleType) -> list[ast.stmt]:
    """Return the statements of a module, with those of its `if TYPE_CHECKING:` blocks in their place."""
    found: list[ast.stmt] = []
    for node in ast.parse(inspect.getsource(module)).body:
        found += node.body if isinstance(node, ast.If) else [node]
    return found


def _summary(value: object) -> str:
    return (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")


@cache
def _paths() -> dict[str, str]:
    """Return the path of each name that has one meaning."""
    found: dict[str, set[str]] = {}
    for each in names():
        found.setdefault(each.name, set()).add(each.path)
    return {name: path for name, (path, *more) in ((name, sorted(paths)) for name, paths in found.items()) if not more}


def _linked(text: str) -> str:
    """Turn Markdown's code into that of reStructuredText, and the public names in it into links."""

    def code(match: re.Match[str]) -> str:
        path = _paths().get(match[1].removesuffix("()"))
        return f":py:obj:`{match[1]} <{path}>`" if path else f"``{match[1]}``"

    lines = (line if line.lstrip().startswith((">>>", "...")) else _CODE.sub(code, line) for line in text.splitlines())
    return "\n".join(lines)


def _link_docstring(_app: Sphinx, _what: str, _name: str, _value: object, _options: object, lines: list[str]) -> None:
    lines[:] = _linked("\n".join(lines)).splitlines()


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension."""
    app.connect("builder-inited", _write_pages)
    app.connect("autodoc-process-docstring", _link_docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
