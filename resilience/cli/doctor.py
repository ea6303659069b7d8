"""`doctor`: check whether this machine can run the configured service."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import platform
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from resilience import _version
from resilience.cli.answer import CommandOutput, Paint
from resilience.cli.redis_facts import facts_of
from resilience.clock import monotonic
from resilience.config import Config, ConfigurationWarning, load
from resilience.config._client_layer import CLIENT_DEFAULT
from resilience.config._render import written
from resilience.config._schema import DEFAULT, section
from resilience.errors import ConfigurationError, ResilienceError
from resilience.options import rule_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from resilience.options import Options

__all__ = ("check_extra", "configure", "run")

_OLDEST = (3, 11)
# Those that bring something this toolkit uses: `pip install` should never be advised in vain.
_EXTRAS = {
    "redis": "redis",
    "fastapi": "fastapi",
    "flask": "flask",
    "grpc": "grpc",
    "httpx2": "httpx2",
    "httpx": "httpx",
    "requests": "requests",
    "sqlalchemy": "sqlalchemy",
    "psycopg": "psycopg",
}
_DISTRIBUTIONS = {"grpc": "grpcio"}


class Finding(NamedTuple):
    """One line of the report. `is_fine` is None if an optional part is absent."""

    is_fine: bool | None
    subject: str
    text: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON: each subject is ok, fail or absent")


def run(arguments: argparse.Namespace, paint: Paint) -> CommandOutput:
    """Check Python, extras, configuration and Redis. The status is 0 only when nothing is wrong."""
    findings = list(_findings())
    if arguments.json:
        return _as_json(findings)
    width = max(len(finding.subject) for finding in findings)
    lines = [_line(finding, width, paint) for finding in findings]
    wrong = sum(finding.is_fine is False for finding in findings)
    lines.append("\n" + (f"{wrong} thing{'s' * (wrong > 1)} to fix." if wrong else "All is well."))
    return CommandOutput("\n".join(lines) + "\n", status=1 if wrong else 0)


def _as_json(findings: list[Finding]) -> CommandOutput:
    words = {True: "ok", False: "fail", None: "absent"}
    rows = [{"subject": each.subject, "status": words[each.is_fine], "text": each.text} for each in findings]
    is_well = all(each.is_fine is not False for each in findings)
    text = json.dumps({"is_well": is_well, "findings": rows}, indent=2)
    return CommandOutput(f"{text}\n", status=0 if is_well else 1)


def _line(finding: Finding, width: int, paint: Paint) -> str:
    marks = {True: paint.good("ok  "), False: paint.bad("FAIL"), None: paint.dim("-   ")}
    text = finding.text.replace("\n", "\n" + " " * (width + 8))
    line = f"{marks[finding.is_fine]}  {finding.subject.ljust(width)}  "
    return line + (paint.dim(text) if finding.is_fine is None else text)


def _findings() -> Iterator[Finding]:
    python = platform.python_version()
    yield Finding(sys.version_info >= _OLDEST, "python", f"{python} ({sys.executable})")
    yield Finding(True, "resilience-plugins", _version.__version__)
    for name, module in _EXTRAS.items():
        yield check_extra(name, module)
    finding, config = _configuration()
    yield finding
    if config is not None:
        yield _pipelines(config)
        yield _pools(config)
        yield _clients(config)
        yield _redis(config)


def check_extra(name: str, module: str) -> Finding:
    """Check whether the packages of the extra `name` can be imported, and report their versions."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        return Finding(None, name, f'not installed; pip install "resilience-plugins[{name}]"')
    except Exception as error:  # noqa: BLE001 - a broken installation can raise anything
        return Finding(False, name, f"{module} is installed but does not import: {error}")
    try:
        return Finding(True, name, importlib.metadata.version(_DISTRIBUTIONS.get(module, module)))
    except importlib.metadata.PackageNotFoundError:
        return Finding(True, name, "importable, version unknown")


def _configuration() -> tuple[Finding, Config | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConfigurationWarning)
            config = load()
    except ConfigurationError as error:
        return Finding(False, "configuration", str(error)), None
    count = sum(setting.source not in ("default", CLIENT_DEFAULT) for setting in config.values())
    text = f"{count} value{'s' * (count != 1)} set; `resilience config` shows them"
    if config.unknown:
        text = "\n".join(("ignored:", *(f"  {problem}" for problem in config.unknown)))
        return Finding(False, "configuration", text), config
    if config.unlikely:
        text = "\n".join(("probably milliseconds:", *(f"  {problem}" for problem in config.unlikely)))
        return Finding(False, "configuration", text), config
    return Finding(True, "configuration", text), config


def _pipelines(config: Config) -> Finding:
    """List the configured names, so that a misspelt name shows."""
    names = ", ".join(config.pipelines)
    return Finding(True, "pipelines", names) if names else Finding(None, "pipelines", "none is configured")


def _pools(config: Config) -> Finding:
    """List the configured pools and their sizes. Only the service itself knows how to connect."""
    texts = [f"{name} {_set(config.pool(name))}".rstrip() for name in config.pools]
    return Finding(True, "pools", "\n".join(texts)) if texts else Finding(None, "pools", "none is configured")


def _set(values: Mapping[str, object]) -> str:
    fields = section("pool.*").fields
    return ", ".join(f"{name}={written(value, rule_of(fields[name]))}" for name, value in values.items())


def _clients(config: Config) -> Finding:
    """List the policies that HTTP and gRPC clients have, with the values that are set, by name of their pipeline."""
    names = dict.fromkeys(("http", *(name for name in config.pipelines if name != DEFAULT)))
    lines = [f"{name}: {_policies(config, name)}" for name in names]
    lines.append(f"any other gRPC service: {_policies(config, DEFAULT)}")
    return Finding(True, "clients", "\n".join((*lines, f"* {CLIENT_DEFAULT}; ENABLED=false removes a policy")))


def _policies(config: Config, name: str) -> str:
    texts = [_policy(config, name, kind, options) for kind, options in config.client_pipeline(name).items()]
    return ", ".join(texts) or "none: calls pass through unguarded"


def _policy(config: Config, name: str, kind: str, options: Options) -> str:
    words, fields = [kind], options.fields()
    for field, source in config.client_sources(name, kind).items():
        if source != "default":
            mark = "*" if source == CLIENT_DEFAULT else ""
            words.append(f"{field}={written(getattr(options, field), rule_of(fields[field]))}{mark}")
    return " ".join(words)


def _redis(config: Config) -> Finding:
    if config.redis.url is None:
        return Finding(None, "redis server", "RESILIENCE_REDIS__URL is not set; state stays in each process")
    from resilience.redis import RedisConnection  # noqa: PLC0415 - imported if Redis is configured

    try:
        connection = RedisConnection(config.redis)
    except ResilienceError as error:  # raised before a connection is made
        return Finding(False, "redis server", f"{_place(config)}: {error}")
    start = monotonic()
    try:
        with contextlib.closing(connection):
            reason = connection.diagnose()
            taken = monotonic() - start
            facts = list(facts_of(connection)) if reason is None else []
    except Exception as error:  # noqa: BLE001 - any error is a finding
        return Finding(False, "redis server", f"{_place(config)}: {error}")
    if reason is not None:
        return Finding(False, "redis server", f"{_place(config)} cannot serve limiters: {reason}")
    served = f"{_place(config)} serves limiters ({taken * 1e3:.0f} ms)"
    return Finding(True, "redis server", "\n".join((served, *facts)))


def _place(config: Config) -> str:
    return next(setting.text for setting in config.values() if setting.variable == "RESILIENCE_REDIS__URL")
