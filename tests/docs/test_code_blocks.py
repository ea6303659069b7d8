"""Every block of a page that is no Python is parsed, loaded strictly, or run. `test_examples.py` runs the Python."""

from __future__ import annotations

import doctest
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from resilience import ConfigurationError, Pipeline, Resilience, Retry, plugins
from resilience.__main__ import _parsers
from resilience.config._client_layer import CLIENT_LAYER

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)(`{3,})(.*)\n((?s:.*?))^\1\2$", re.MULTILINE)
PLUGIN = "resilience.testing._pytest_plugin"
SHELLS = {"sh", "bash", "console"}
VARIABLE = re.compile(r"RESILIENCE_[A-Z0-9_]+__[A-Z0-9_<>]+|RESILIENCE_(?:STRICT|CONFIG_FILE)\b")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    info: str
    text: str

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, found.start()) + 1, found[3], found[4])


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def commands(block: Block) -> list[str]:
    """Return the command lines of a shell block, without comments; of a console only the lines after the prompt."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [
        " ".join(shlex.split(line, comments=True)) and re.sub(r"\s+#.*", "", line) for line in lines if line.strip()
    ]


def words(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of a block: `a && b | c` has three commands."""
    for line in commands(block):
        for part in re.split(r"\s*(?:&&|\||;)\s+", line):
            yield shlex.split(re.sub(r"\s>\s\S+$", "", part))  # without the file that the output goes to


def variables(text: str) -> dict[str, str]:
    """Return the variables of the toolkit that a text sets, by themselves, by `export`, or before a command."""
    return dict(re.findall(r"(?:^|\s)(RESILIENCE_[A-Z0-9_]+)=([^\s<]+)(?=\s|$)", text))


def test_every_language_has_its_check() -> None:
    """A block names its language, and a test in this folder checks that language: a new one needs a check here."""
    checked = {*SHELLS, "python", "text", "toml", "yaml", "json", "ini", "promql"}
    assert [f"{block}: {block.info}" for block in BLOCKS if block.language not in checked] == []


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_is_run_by_another_test(block: Block) -> None:
    """A Python block is run with its page, or has the name of a file, which the test of a recipe runs."""
    options = block.info.removeprefix("python").strip()
    assert not options or re.fullmatch(r"needs=[\w.]+", options) or 'title="' in options
    assert not block.text.startswith(" "), "test_examples runs no block that is indented"
    if 'title="' in options:
        assert block.page.parent.name == "cookbook" or block.page.name in {"tutorial.md", "pool-psycopg.md"}


@pytest.mark.parametrize("block", blocks(*SHELLS), ids=str)
def test_a_shell_block_is_one_that_a_shell_accepts(block: Block) -> None:
    """The commands of a block have the syntax of a shell."""
    source = "\n".join(commands(block))
    done = subprocess.run(["bash", "-n"], input=source, capture_output=True, text=True, timeout=30, check=False)  # noqa: S607 - the bash of this machine
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks(*SHELLS), ids=str)
def test_commands_and_options_of_ours_exist(block: Block) -> None:
    """The arguments of `python -m resilience` on a page are those of the command, and variables have names."""
    for given in words(block):
        command = [word for word in given if not re.match(r"[A-Z][A-Z0-9_]*=", word)]
        if not command:
            continue
        if command[1:3] == ["-m", "resilience"] and command[3] != "demo":
            assert not _parsers()[0].parse_known_args(command[3:])[1], command
        elif command[1:3] == ["-m", "resilience"]:
            assert set(command[4:]) <= demo_options()
        elif command[:1] == ["export"]:
            assert all(re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", word) for word in command[1:])


def demo_options() -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "resilience", "demo", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    return set(re.findall(r"--[\w-]+", done.stdout))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_assignments_of_variables_are_accepted(page: Path, tmp_path: Path) -> None:
    """The variables that a block sets exist and have valid values: strict mode takes each block without a problem."""
    for block in (each for each in BLOCKS if each.page == page and each.language in {*SHELLS, "text"}):
        given = variables(block.text)
        if "configuration problems:" in block.text or not given:
            continue
        if "RESILIENCE_CONFIG_FILE" in given:
            given["RESILIENCE_CONFIG_FILE"] = str(tmp_path / "empty.toml")
            (tmp_path / "empty.toml").touch()
        if "RESILIENCE_STATUS__SOCKET" in given:
            given["RESILIENCE_STATUS__SOCKET"] = str(tmp_path / "status.sock")
        Resilience.from_env({**given, "RESILIENCE_STRICT": "true"}).close()


ALONE = {"RESILIENCE_STRICT", "RESILIENCE_CONFIG_FILE"}
"""Variables that belong to no section. A name that ends with `__` is a prefix."""


def known_variables() -> list[re.Pattern[str]]:
    """Return patterns of all variables of the reference."""
    reference = (ROOT / "docs" / "configuration.md").read_text().partition("<!-- reference -->")[2]
    names = re.findall(r"^\| `(RESILIENCE_[A-Z0-9_<>]+)` \|", reference, re.MULTILINE)
    assert len(names) > 100
    return [re.compile(re.sub(r"<\w+>", "(?:<\\\\w+>|[A-Z0-9_]+)", name)) for name in names]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_variables_named_in_the_text_exist(page: Path) -> None:
    """A variable that a page names in full is one of the reference."""
    known = known_variables()
    named = {name for code in re.findall(r"`([^`\n]+)`", page.read_text()) for name in VARIABLE.findall(code)}
    unknown = [name for name in named if not any(pattern.fullmatch(name) for pattern in known)]
    assert [name for name in unknown if name not in ALONE and not name.endswith("__")] == []


RUN = re.compile(r"python -m resilience (?:config|codes|doctor)\b")


@pytest.mark.parametrize("block", [each for each in blocks("console") if RUN.search(each.text)], ids=str)
def test_a_console_shows_the_output_of_its_commands(block: Block) -> None:
    """A command prints the lines below it, with the variables of the block; "..." stands for other lines."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RESILIENCE_")}
    environment |= variables(block.text)
    for command, shown in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
        if shown and RUN.match(command):
            arguments = [sys.executable, *shlex.split(command)[1:]]
            done = subprocess.run(
                arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(shown, done.stdout, flags), done.stdout


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_is_loaded(block: Block, tmp_path: Path) -> None:
    """A TOML block is a configuration that strict mode takes, or a part of a pyproject.toml with groups that exist."""
    data = tomllib.loads(block.text)
    if groups := data.get("project", {}).get("entry-points"):
        assert set(groups) <= {*plugins.GROUPS, "pytest11", "opentelemetry_instrumentor"}
        return
    path = tmp_path / "resilience.toml"
    path.write_text(block.text)
    Resilience.from_env({"RESILIENCE_CONFIG_FILE": str(path), "RESILIENCE_STRICT": "true"}).close()


@pytest.mark.parametrize("block", blocks("yaml", "json"), ids=str)
def test_data_is_parsed(block: Block) -> None:
    """A block of data can be parsed."""
    assert json.loads(block.text) if block.language == "json" else list(yaml.safe_load_all(block.text))


@pytest.mark.parametrize("block", blocks("ini"), ids=str)
def test_options_of_pytest_exist(block: Block, tmp_path: Path) -> None:
    """pytest knows each option of an ini block, with our plugin and strict about options."""
    (tmp_path / "pytest.ini").write_text(block.text)
    is_installed = "resilience" in {each.name for each in importlib.metadata.entry_points(group="pytest11")}
    plugin = [] if is_installed else ["-p", PLUGIN]  # in a tree on the path, no entry point names it
    command = [sys.executable, "-m", "pytest", "--strict-config", "--collect-only", "-q", *plugin]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stderr


def masked(text: str) -> str:
    """Return a text with its numbers replaced, because times differ from run to run."""
    return re.sub(r"\d+(?:\.\d+)?", "0", text).strip()


def test_the_error_of_wrong_settings_is_the_one_of_the_page() -> None:
    """The page on configuration shows the text of the error for two wrong values."""
    (block,) = [each for each in blocks("text") if "configuration problems:" in each.text]
    wrong = {name: value.strip("'") for name, value in re.findall(r"- (RESILIENCE_\w+)=('[^']*')", block.text)}
    with pytest.raises(ConfigurationError) as caught:
        Resilience.from_env(wrong)
    assert str(caught.value).strip() == block.text.strip()


def test_the_defaults_of_clients_are_those_of_the_page() -> None:
    """The page on configuration lists the values of the layer of clients."""
    (block,) = [each for each in blocks("text") if each.text.startswith("RETRY__ATTEMPTS=")]
    listed = dict(re.findall(r"(\w+)=([\d.]+)", block.text))
    defaults = {f"{each.pattern.rpartition('.')[2]}__{each.field}".upper(): each.value for each in CLIENT_LAYER}
    assert {name: float(value) for name, value in listed.items()} == defaults


def test_the_note_of_a_retry_is_the_one_of_the_page() -> None:
    """The page on retries shows the note that the last error of three attempts has, except for its times."""
    (block,) = [each for each in blocks("text") if "gave up after 3 attempts in" in each.text and "  1 " in each.text]
    errors = [ConnectionError(text) for text in ("no route to host", "reset by peer", "no route to host")]
    calls = iter(errors)

    def fail() -> None:
        raise next(calls)

    with pytest.raises(ConnectionError) as caught:
        Pipeline("inventory", Retry(attempts=3, on=ConnectionError, wait_initial="1ms")).call(fail)
    lines = traceback.format_exception_only(caught.value)
    assert masked("".join(lines)) == masked(block.text)


def test_the_report_of_health_is_the_one_of_the_page() -> None:
    """The page on health shows what its first example prints."""
    page = ROOT / "docs" / "howto" / "health.md"
    (shown,) = [each.text for each in blocks("text") if each.page == page]
    code = next(each.text for each in blocks("python") if each.page == page)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == shown.strip()


OUTPUTS = {
    "2 configuration problems:": "tests/docs/test_code_blocks.py",
    "RETRY__ATTEMPTS=": "tests/docs/test_code_blocks.py",
    "RESILIENCE_": "tests/docs/test_code_blocks.py",
    "ConnectionError: no route": "tests/docs/test_code_blocks.py",
    "[+]ping ok": "tests/docs/test_code_blocks.py",
    "circuit 'payments.breaker'": "tests/core/base/test_event_log.py",
    "GET /orders/{order_id} 200": "tests/docs/test_logging_page.py",
    "resilience_breaker_circuits{": "tests/docs/test_prometheus_page.py",
    "sum by (job": "tests/core/telemetry/test_alerts.py",
    "policy:resilience_": "tests/core/telemetry/test_alerts.py",
    "job:resilience_": "tests/core/telemetry/test_alerts.py",
    "Prometheus scrapes": "tests/examples/test_observability.py",
    "seconds     ": "tests/adapters/demo/test_demo.py",
    "preStop sleep": "tests/examples/test_kubernetes.py",
}
"""The texts of pages, by their begin, with the test that knows their lines."""


@pytest.mark.parametrize("block", [each for each in blocks("text") if "title=" not in each.info], ids=str)
def test_an_output_is_known_to_a_test(block: Block) -> None:
    """A text block is an output or a list that a test compares; the tests of recipes compare those with a title."""
    (test,) = [path for begin, path in OUTPUTS.items() if block.text.startswith(begin)]
    assert (ROOT / test).exists()
