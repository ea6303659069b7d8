"""`configure_logging()` and `logging_config()` give a service one form for all lines."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from flask import Flask

from resilience import ConfigurationError, Resilience
from resilience.config import Config, load
from resilience.logs import ContextFilter, JsonFormatter, TextFormatter, configure_logging, logging_config
from resilience.logs._configure import SERVER_LOGGERS

LOGGERS = ("", *SERVER_LOGGERS, "shop", "resilience")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Give all loggers back as they were."""
    known = [logging.getLogger(name) for name in LOGGERS]
    before = [(each.handlers[:], each.level, each.propagate, each.disabled) for each in known]
    for each in known:
        if each.name.startswith(("uvicorn", "gunicorn")):  # a server of an earlier test has set its level
            each.setLevel(logging.NOTSET)
    yield
    for logger, (handlers, level, propagate, disabled) in zip(known, before, strict=True):
        logger.handlers, logger.propagate, logger.disabled = handlers, propagate, disabled
        logger.setLevel(level)


class Terminal:
    """What was written to standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    @property
    def lines(self) -> list[str]:
        return self._capsys.readouterr().err.splitlines()


@pytest.fixture
def err(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


def by_call(config: Config) -> None:
    configure_logging(config)


def by_dictionary(config: Config) -> None:
    logging.config.dictConfig(logging_config(config))


WAYS = pytest.mark.parametrize("configure", [by_call, by_dictionary])


def config(**settings: str) -> Config:
    return load({f"RESILIENCE_{name}": value for name, value in settings.items()})


@WAYS
def test_all_loggers_write_one_form(err: Terminal, configure: Callable[[Config], None]) -> None:
    """Lines of the service, of servers with handlers of their own, and of this library are JSON, each one once."""
    for name in SERVER_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [logging.StreamHandler(sys.stderr)], False
        logger.setLevel(logging.INFO)
    configure(config(SERVICE__NAME="shop"))
    for name in LOGGERS:
        logging.getLogger(name).warning("from %s", name or "root")
    lines = [json.loads(line) for line in err.lines]
    assert [line["event"] for line in lines] == [f"from {name or 'root'}" for name in LOGGERS]
    assert {line["service_name"] for line in lines} == {"shop"}


@WAYS
def test_the_settings_count(err: Terminal, configure: Callable[[Config], None]) -> None:
    """Format, level, words to redact, length of texts and the switch for access lines come from the configuration."""
    configure(config(LOG__FORMAT="text", LOG__LEVEL="warning", LOG__REDACT="iban", LOG__MAX_TEXT="100",
                     LOG__REQUESTS="true"))  # fmt: skip
    logging.getLogger("shop").info("not shown")
    logging.getLogger("shop").warning("x" * 200, extra={"iban": "DE1"})
    (line,) = err.lines
    assert f"WARNING shop {'x' * 100}... (200 characters)" in line
    assert 'iban="***"' in line
    levels = {name: logging.getLogger(name).level for name in SERVER_LOGGERS if name.endswith("access")}
    assert set(levels.values()) == {logging.WARNING}


def test_uvicorn_takes_the_dictionary(err: Terminal) -> None:
    """The argument `log_config` of uvicorn accepts the dictionary, and its lines then have our form."""
    uvicorn.Config("shop:app", log_config=logging_config(config(SERVICE__NAME="shop")))
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).info("from %s", name)
    assert [json.loads(line)["event"] for line in err.lines] == ["from uvicorn.error", "from uvicorn.access"]


def test_flask_adds_no_handler_of_its_own(err: Terminal) -> None:
    """The logger of a Flask application that is first used after the call writes each line once, in our form."""
    configure_logging(config())
    app = Flask("configured-shop")
    app.logger.warning("from flask")
    assert [json.loads(line)["event"] for line in err.lines] == ["from flask"]
    assert app.logger.handlers == []


@WAYS
def test_stdout_if_asked(capsys: pytest.CaptureFixture[str], configure: Callable[[Config], None]) -> None:
    """The lines go to standard output if the setting says so, else to standard error."""
    configure(config(LOG__STREAM="stdout"))
    logging.getLogger("shop").warning("out")
    configure(config())
    logging.getLogger("shop").warning("err")
    out, err = capsys.readouterr()
    assert [json.loads(each)["event"] for each in (out, err)] == ["out", "err"]


def test_a_second_call_replaces_the_first(err: Terminal) -> None:
    """Two calls, as in a module that is imported twice, write each line once."""
    configure_logging(config())
    handler = configure_logging(config())
    logging.getLogger("shop").warning("once")
    assert len(err.lines) == 1
    assert logging.getLogger().handlers.count(handler) == 1


def test_handlers_of_files_and_trackers_stay(err: Terminal, tmp_path: Path) -> None:
    """Only handlers that write to the terminal are replaced."""
    file, tracker = logging.FileHandler(tmp_path / "log"), logging.StreamHandler(io.StringIO())
    terminal = logging.StreamHandler(sys.stderr)
    for handler in (file, tracker, terminal):
        logging.getLogger().addHandler(handler)
    own = configure_logging(config())
    assert {file, tracker, own} <= set(logging.getLogger().handlers)
    assert terminal not in logging.getLogger().handlers
    file.close()


def test_without_an_argument_the_environment_counts(err: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings are those of the process, and a wrong one stops the start with its variable."""
    monkeypatch.setenv("RESILIENCE_SERVICE__NAME", "from-env")
    configure_logging()
    logging.getLogger("shop").warning("x")
    assert [json.loads(line)["service_name"] for line in err.lines] == ["from-env"]
    monkeypatch.setenv("RESILIENCE_LOG__FORMAT", "xml")
    monkeypatch.setenv("RESILIENCE_LOG__LEVEL", "loud")
    before = logging.getLogger().handlers[:]
    with pytest.raises(ConfigurationError, match=r"(?s)RESILIENCE_LOG__FORMAT.*json.*RESILIENCE_LOG__LEVEL.*loud"):
        configure_logging()
    assert logging.getLogger().handlers == before


def test_a_toolkit_is_no_configuration() -> None:
    """An argument of another type is refused by its type, which shows no secret."""
    toolkit: Any = Resilience.from_env({})
    for function in (configure_logging, logging_config):
        with pytest.raises(ConfigurationError, match=r"config.*Resilience.*toolkit\.config"):
            function(toolkit)


def test_the_handler_has_filter_and_formatter() -> None:
    """The handler that is returned can be changed further."""
    handler = configure_logging(config())
    assert [type(each) for each in handler.filters] == [ContextFilter]
    assert isinstance(handler.formatter, JsonFormatter)
    assert isinstance(configure_logging(config(LOG__FORMAT="text")).formatter, TextFormatter)
