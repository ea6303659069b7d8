"""The shape of the code base, read from its syntax trees."""

import ast
import dataclasses
import importlib
import inspect
import io
import math
import pkgutil
import re
import subprocess
import sys
import tokenize
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import resilience

pytestmark = [pytest.mark.once, pytest.mark.no_cover]

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "resilience").rglob("*.py"))
ADAPTERS = sorted((ROOT / "adapters").rglob("*.py"))
SOURCES = CORE + ADAPTERS
ADAPTER_PACKAGES = ("resilience_fastapi", "resilience_flask", "resilience_grpc", "resilience_http", "resilience_sql")
THIN = [path for path in ADAPTERS if "resilience_demo" not in path.parts]
"""The adapters proper: the demo is a program that runs them."""

LEVELS = {
    "_support.printable": -2,
    "_support.portable": -1,
    "_support.usage": -1,
    "_support.background": -1,
    "_support.problem": -0.5,
    "_support.given_facts": -1,
    "_support.joined": -0.5,
    "_version": 0,
    "_support.fixed": 0,
    "_support.fork": 0,
    "_support.measured": 0.5,
    "_support.keys": 0,
    "_support.awaiting": 0,
    "_support.names": 0,
    "_support.notes": 0,
    "_support.numbers": 0,
    "_support.outcomes": 0,
    "_support.redaction": 0,
    "errors": 0,
    "_support.rules": 0,
    "clock": 0,
    "_support.executor": 1,
    "_support.retry_after": 1,
    "options": 1,
    "_support.log_writer": 1,
    "event_log": 1.5,
    "running": 1,
    "_support.named": 1.5,
    "events": 2,
    "policy": 2,
    "_support.matching": 2,
    "_support.sharing": 2,
    "_support.tls": 2,
    "_support.user_calls": 3,
    "idempotency": 2,
    # Policies and parts: a part may use the contract and the parts listed before it.
    "redis": 3,
    "fleet": 3.2,  # below the policies and the budget that share state
    "_engine._steps": 3,
    "breaker": 4,
    "budget": 3.5,
    "fallback": 4,
    "cache": 3,
    "ratelimit": 4,
    "timeout": 3,
    "bulkhead": 4,
    "pool": 4,
    "singleflight": 4,
    "keyed": 4,
    "retry": 4,
    "hedge": 4,
    "envelope": 3,
    "status": 3,
    "lifecycle": 3,
    "limits_strategy": 5,
    "health": 4,
    "server": 5,
    "client": 6,
    "_engine": 6,
    "pipeline": 7,
    "plugins": 7,
    "connectors": 8,
    "config": 8,
    "logs": 8.5,
    "toolkit": 9,
    "telemetry": 9.5,
    "prometheus": 9.7,
    "cli": 10,
    "testing": 10,
    "__main__": 11,
}
PURE = {"time", "threading", "asyncio", "random", "os", "socket", "logging", "redis", "pybreaker", "tenacity", "limits"}
AWAITING = ("_aio.py",)


def module_of(path: Path) -> str:
    relative = path.relative_to(ROOT if "adapters" not in path.parts else ROOT / "adapters").with_suffix("")
    parts = [part for part in relative.parts if part != "__init__"]
    return ".".join(parts)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def top_level_imports(tree: ast.Module) -> list[str]:
    """Return the imports that run when the module is imported: not those for checkers, not those inside functions."""
    found: list[str] = []
    for node in tree.body:
        nodes = node.body if isinstance(node, ast.Try) else [node]
        for each in nodes:
            if isinstance(each, ast.Import):
                found += [alias.name for alias in each.names]
            elif isinstance(each, ast.ImportFrom) and each.module:
                found += [f"{each.module}.{alias.name}" for alias in each.names]
    return found


def all_imports(tree: ast.Module) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def part_of(module: str) -> str:
    """Return the part of the core that a module belongs to: a package, or a file that others import."""
    parts = module.split(".")[1:]
    return ".".join(parts[: 2 if parts[:1] == ["_support"] or parts[:2] == ["_engine", "_steps"] else 1])


@pytest.mark.parametrize("path", CORE, ids=module_of)
def test_imports_go_down_only(path: Path) -> None:
    """A part of the core imports, at import time, only parts below it."""
    part = part_of(module_of(path))
    for name in top_level_imports(tree_of(path)):
        if name.startswith("resilience.") and part:
            other = part_of(name)
            if other != part:
                assert LEVELS[other] < LEVELS[part], f"{module_of(path)} imports {name}"


def test_every_part_has_a_level() -> None:
    """A new part of the core takes its place in the order before anything imports it."""
    parts = {part_of(module_of(path)) for path in CORE} - {"", "_support"}
    assert parts <= set(LEVELS)


def test_no_import_cycles() -> None:
    """No module imports itself, however indirectly."""
    modules = {module_of(path): path for path in SOURCES}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        graph[module] = set()
        for name in top_level_imports(tree_of(path)):
            target = name if name in modules else name.rpartition(".")[0]
            if target in modules and target != module:
                graph[module].add(target)
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for target in graph[module]:
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


CIRCLES = {
    # For types alone: a request knows the gate that made it, and the gate makes requests.
    ("resilience.server._context", "resilience.server._gate", "resilience.server._rate_key"),
    # For types alone: the stage shows the criteria, and a criterion is judged from the stage.
    ("resilience_demo._stage", "resilience_demo._verdict"),
}


def test_no_circle_but_those_with_a_reason() -> None:
    """No modules import one another, inside functions or for type checkers either, but those of `CIRCLES`."""
    modules = {module_of(path): path for path in SOURCES}
    graph = {module: {target_of(name, modules) for name in all_imports(tree_of(path))} - {"", module}
             for module, path in modules.items()}  # fmt: skip
    reached = {module: reachable(module, graph) for module in graph}
    circles = {tuple(sorted(other for other in reached[each] if each in reached[other])) for each in graph}
    assert circles - {()} == CIRCLES


def target_of(name: str, modules: Collection[str]) -> str:
    """Return the module of ours that an import of `name` imports, "" if it is another's."""
    return next((each for each in (name, name.rpartition(".")[0]) if each in modules), "")


def reachable(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    """Return the modules that `start` imports, directly or through others; itself only through a circle."""
    found: set[str] = set()
    pending = [*graph[start]]
    while pending:
        if (each := pending.pop()) not in found:
            found.add(each)
            pending += graph[each]
    return found


def test_imports_are_absolute() -> None:
    """No import is relative: the tests here read whole names."""
    for path in SOURCES:
        nodes = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ImportFrom)]
        assert not [node.lineno for node in nodes if node.level], path


@pytest.mark.parametrize("path", [path for path in CORE if path.name == "_machine.py"], ids=module_of)
def test_machines_are_pure(path: Path) -> None:
    """A machine knows no clock, lock, thread, loop, chance, log or I/O: it is told the time."""
    roots = {name.split(".")[0] for name in all_imports(tree_of(path))}
    assert not roots & PURE


@pytest.mark.parametrize("path", CORE, ids=module_of)
def test_asyncio_is_imported_by_the_awaiting_shells_alone(path: Path) -> None:
    """No module but an `_aio.py` (and the test tools) imports asyncio when it is imported: it costs 40 ms."""
    if not (path.name.endswith(AWAITING) or "testing" in path.parts):
        assert not [name for name in top_level_imports(tree_of(path)) if name.split(".")[0] == "asyncio"]


BLOCKING_PROGRAM = """
import sys
sys.modules["redis"] = None  # it imports asyncio itself; as if the `redis` extra was not installed
from resilience import (
    Bulkhead, Cache, CircuitBreaker, Fallback, Hedge, Keyed, Pipeline, RateLimit, Resilience, Retry, SingleFlight,
    ThreadPoolBulkhead, Timeout, idempotent
)

@idempotent
def answer(key):
    return key

policies = [
    Fallback(value=None), Cache(ttl=1), SingleFlight(), Retry(attempts=2), Hedge(5),
    CircuitBreaker(failure_rate_threshold=0.5), Keyed(lambda _: Timeout(5), str, name="keyed"), RateLimit("50/second"),
    Bulkhead(max_concurrent_calls=2, max_wait=1), ThreadPoolBulkhead(2), Timeout(5),
]
assert Pipeline("all", *policies)(answer)("a") == "a"
for policy in policies:
    assert Pipeline("one", policy)(answer)("a") == "a"
with Pipeline("block", Bulkhead(max_concurrent_calls=2)).guard():
    pass
toolkit = Resilience.from_env({"RESILIENCE_PIPELINE__SHOP__BREAKER__FAIL_MAX": "3"})
assert toolkit.pipeline("shop")(answer)("a") == "a"
assert toolkit.health.handle("/livez").status == 200
toolkit.close()
print("asyncio" in sys.modules)
"""


@pytest.mark.everywhere
def test_a_blocking_program_never_imports_asyncio() -> None:
    """Every policy is built and used, and a toolkit is started and closed, in blocking code without asyncio."""
    done = subprocess.run([sys.executable, "-c", BLOCKING_PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("path", CORE, ids=module_of)
def test_core_knows_no_framework(path: Path) -> None:
    """The core never imports a web framework or an adapter, not even lazily."""
    roots = {name.split(".")[0] for name in all_imports(tree_of(path))}
    assert not roots & {
        "fastapi",
        "starlette",
        "flask",
        "grpc",
        "httpx",
        "httpx2",
        "requests",
        "resilience_fastapi",
        "resilience_flask",
        "resilience_grpc",
        "resilience_http",
        "resilience_sql",
    }


@pytest.mark.parametrize("path", ADAPTERS, ids=module_of)
def test_adapters_use_public_names_only(path: Path) -> None:
    """An adapter imports public names of `resilience`, and no other adapter; the demo may run them all."""
    own = module_of(path).split(".")[0]
    for name in all_imports(tree_of(path)):
        parts = name.split(".")
        if parts[0] == "resilience":
            assert not [part for part in parts if part.startswith("_")], name
        assert not parts[0].startswith("resilience_") or own in {parts[0], "resilience_demo"}, name


@pytest.mark.parametrize("path", THIN, ids=module_of)
def test_adapters_decide_nothing(path: Path) -> None:
    """An adapter holds no lock and never sleeps: that is policy, and policy is in the core."""
    names = {node.attr for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
    assert not names & {"sleep", "Lock", "RLock", "Semaphore"}


def guarded_against(error: str, tree: ast.Module) -> set[ast.AST]:
    """Return the nodes that stand in a `try` that handles `error`, or in a `with` that suppresses it."""
    guarded: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            caught = any(error in ast.unparse(handler.type) for handler in node.handlers if handler.type is not None)
        else:
            caught = isinstance(node, ast.With) and f"suppress({error})" in ast.unparse(node.items[0])
        if caught and isinstance(node, ast.Try | ast.With):
            guarded.update(inner for line in node.body for inner in ast.walk(line))
    return guarded


def calls_of(tree: ast.AST, *names: str) -> list[ast.Call]:
    """Return the calls of what has one of these names, as a name or as an attribute."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in found if getattr(call.func, "attr", getattr(call.func, "id", "")) in names]


POLICIES = (
    "Bulkhead",
    "Cache",
    "CircuitBreaker",
    "Fallback",
    "Hedge",
    "RateLimit",
    "Retry",
    "SingleFlight",
    "ThreadPoolBulkhead",
    "Timeout",
)


@pytest.mark.parametrize("path", THIN, ids=module_of)
def test_adapters_construct_no_policy(path: Path) -> None:
    """An adapter takes its policies from `resilience.client`; `Keyed` in `per_host` and `per_method` is the user's."""
    assert not calls_of(tree_of(path), *POLICIES)


def starts_of_threads(tree: ast.Module) -> list[ast.Call]:
    """Return the calls of `start` on a thread that was made in this module."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    kinds = {each.name for each in classes if "threading.Thread" in map(ast.unparse, each.bases)}
    made = set(calls_of(tree, "Thread", *kinds))
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and node.value in made]
    names = {ast.unparse(target) for node in assigned for target in node.targets}

    def is_thread(value: ast.expr) -> bool:
        return value in made or ast.unparse(value) in names

    starts = calls_of(tree, "start")
    return [call for call in starts if isinstance(call.func, ast.Attribute) and is_thread(call.func.value)]


@pytest.mark.parametrize("path", CORE + THIN, ids=module_of)
def test_a_start_of_a_thread_may_fail(path: Path) -> None:
    """Where a thread is started, or the function that starts it is called, a system out of threads is handled."""
    tree = tree_of(path)
    guarded = guarded_against("RuntimeError", tree)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    starts = starts_of_threads(tree)
    assert starts or not calls_of(tree, "Thread")
    for start in starts:
        innermost = [each for each in functions if start in set(ast.walk(each))][-1]
        callers = calls_of(tree, innermost.name)
        assert start in guarded or (callers and guarded.issuperset(callers)), f"line {start.lineno}"


def test_adapters_is_not_a_package() -> None:
    """`adapters/` is a source root: as a package it would clash with a real one on PyPI."""
    assert not (ROOT / "adapters" / "__init__.py").exists()


def test_tests_are_not_packages() -> None:
    """No `__init__.py` under tests/: one called `resilience` would shadow the product."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_files_fit_in_the_head(path: Path) -> None:
    """No file has more than 400 lines. Functions are bounded by their complexity, which ruff checks."""
    assert path.read_text().count("\n") <= 400


MAX_FILES = 12
LARGER_PACKAGES = {
    "resilience": "the public modules, each of which users import by its name",
    "resilience/_support": "independent small modules; each is a level of its own",
    "resilience/breaker": "windows, states, rules, cut-offs and pybreaker's face are ideas of their own",
    "resilience/envelope": "tables, catalogue, lock file, wire formats and reading are ideas of their own",
    "resilience/pool": "two colours over one machine: leases, callbacks, lending and the face of each",
    "resilience/ratelimit": "memory, Redis and batches of both colours below one bucket",
    "resilience/ratelimit/on_redis": "one bucket, several rates, windows and clusters; batches of both colours",
    "resilience/redis": "connections of both colours, pools of both colours, scripts and outages",
    "resilience/server": "each guard of a request is an idea of its own",
    "adapters/resilience_fastapi": "each layer around an ASGI application is an idea of its own",
    "resilience/toolkit": "each kind of part is built in a file of its own",
    "adapters/resilience_demo": "a program, not a library",
    "adapters/resilience_demo/chain": "a program, not a library",
    "resilience/telemetry": "the metric table in its parts, and each thing that is made from it",
}


def test_a_package_has_few_files() -> None:
    """A package has at most 12 files, or a written reason for more."""
    packages: dict[str, int] = {}
    for path in SOURCES:
        package = str(path.parent.relative_to(ROOT))
        packages[package] = packages.get(package, 0) + 1
    assert {package for package, files in packages.items() if files > MAX_FILES} <= LARGER_PACKAGES.keys()


def test_class_names_are_unique() -> None:
    """No two classes of the code base have the same name."""
    homes: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name.lstrip("_"), []).append(module_of(path))
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


PROSE = {
    # A construction, and how often the most frequent user among the admired libraries has it in 10,000 words.
    r"\b(?:told|tells?|telling)\b": 1,
    r"\b(?:whoever|those who|for who)\b": 0,
    r"\b(?:nobody|somebody)\b": 0,
    r"\bwhere (?:it|there|they|that|none|no|nothing|one|both|either|neither)\b": 2,
    r"\bwhat\b": 17,
}


def prose_of(path: Path) -> str:
    """Return the docstrings and comments of a file."""
    text, found = path.read_text(), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(ast.get_docstring(node) or "")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.append(node.value.value)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join(dict.fromkeys([*found, *(each.string for each in tokens if each.type == tokenize.COMMENT)]))


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_prose_is_plain(path: Path) -> None:
    """A file has each construction of `PROSE` at most twice as often as the admired libraries."""
    prose = prose_of(path)
    words = len(prose.split())
    for construction, rate in PROSE.items():
        found = re.findall(construction, prose, re.IGNORECASE)
        assert len(found) <= math.ceil(2 * rate * words / 10_000), f"{construction}: {found}"


MAX_ANY = 15
MORE_ANY = {
    # Per 1,000 lines. The arguments, results and awaitables of a user's functions have no narrower type here.
    "resilience": 24,
    "resilience/_engine": 45,
    "resilience/_support": 38,
    "resilience/toolkit": 27,
    "adapters/resilience_grpc": 60,
    "adapters/resilience_sql": 30,  # psycopg's connections are generic in their rows
}


def test_any_is_rare() -> None:
    """A package has at most 15 `Any` in 1,000 lines, or a written higher limit."""
    counts: dict[str, tuple[int, int]] = {}
    for path in SOURCES:
        parts = path.relative_to(ROOT).parts
        package = "/".join(parts[: min(2, len(parts) - 1)])
        found, lines = counts.get(package, (0, 0))
        uses = sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree_of(path)))
        counts[package] = found + uses, lines + path.read_text().count("\n")
    rates = {package: 1000 * found / lines for package, (found, lines) in counts.items()}
    assert {name: rate for name, rate in rates.items() if rate > MORE_ANY.get(name, MAX_ANY)} == {}


def parameters_of(function: Any) -> int:
    """Return how many parameters a caller can give."""
    given = inspect.signature(function).parameters
    return len([name for name in given if name not in {"self", "cls"} and not name.startswith("_")])


def documented_callables() -> Iterator[tuple[str, Any, str]]:
    """Return each public function, method and constructor, with its docstring; fields of dataclasses have their own."""
    for module in map(importlib.import_module, [*public_modules(), *ADAPTER_PACKAGES]):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value):
                yield name, value, value.__doc__ or ""
            if not inspect.isclass(value) or not value.__module__.startswith("resilience"):
                continue
            if "__init__" in vars(value) and not (dataclasses.is_dataclass(value) or hasattr(value, "_fields")):
                yield name, value.__init__, value.__doc__ or ""
            for attribute, member in vars(value).items():
                method = getattr(member, "__func__", member)
                if inspect.isfunction(method) and not attribute.startswith("_"):
                    yield f"{name}.{attribute}", method, method.__doc__ or ""


def test_parameters_are_documented() -> None:
    """A public callable with more than two parameters lists them under `Args:`, or names the callable that does."""
    missing = {
        name
        for name, function, text in documented_callables()
        if parameters_of(function) > 2
        and "Args:" not in text
        and "For the arguments see `" not in " ".join(text.split())
    }
    assert missing == set()


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_every_test_states_its_law(path: Path) -> None:
    """Every test has a docstring: one sentence, the law it keeps."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            assert ast.get_docstring(node), f"{path.name}:{node.lineno} {node.name}"


def test_every_ignore_has_a_code_and_a_reason() -> None:
    """A `type: ignore` or `noqa` names what it silences and says why."""
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for marker in ("# type: ignore", "# noqa"):
                if marker in line:
                    rest = line.split(marker, 1)[1]
                    assert rest[:1] in "[:", f"{path}:{number} names no code"
                    assert "  # " in rest or " - " in rest, f"{path}:{number} gives no reason"


def public_modules() -> list[str]:
    names = [info.name for info in pkgutil.iter_modules(resilience.__path__) if not info.name.startswith("_")]
    return ["resilience", *(f"resilience.{name}" for name in names)]


@pytest.mark.parametrize("name", public_modules())
def test_exports_are_stated(name: str) -> None:
    """Every public module states its names (ruff keeps them sorted), and has each of them."""
    module = importlib.import_module(name)
    assert isinstance(module.__all__, tuple)
    assert [missing for missing in module.__all__ if not hasattr(module, missing)] == []


def test_root_names_have_one_home() -> None:
    """Every name of the root is loaded from the part that owns it, and `dir` shows it."""
    homes = [name for names in resilience._HOMES.values() for name in names]
    assert sorted([*homes, "__version__"]) == sorted(resilience.__all__)
    assert set(resilience.__all__) <= set(dir(resilience))
    with pytest.raises(AttributeError, match="no attribute 'Retyr'"):
        _ = resilience.Retyr


def test_every_public_name_is_documented() -> None:
    """Every name of the root has a docstring."""
    for name in resilience.__all__:
        assert name == "__version__" or getattr(resilience, name).__doc__
