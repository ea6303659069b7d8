from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resilience import __main__ as command_line
from resilience.cli import demo, doctor
from resilience.cli.answer import CommandOutput, Paint

ATTEMPTS = "RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATTEMPTS"
SECRET = "hunter2"  # noqa: S105 - the one that must never show
GOOD = {
    ATTEMPTS: "4",
    "RESILIENCE_PIPELINE__DEFAULT__TIMEOUT__SECONDS": "800ms",
    "RESILIENCE_REDIS__URL": f"redis://shop:{SECRET}@cache:6379/0",
}


def _run(
    *arguments: str, environ: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own, with nothing of ours in its environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RESILIENCE_")}
    clean["PYTHONDONTWRITEBYTECODE"] = "1"  # a module written twice within a second would be the first one
    return subprocess.run(
        [sys.executable, "-m", "resilience", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=cwd,
        env=clean | (environ or {}),
    )


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RESILIENCE_")]:
        monkeypatch.delenv(name)


def _main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = command_line.main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# config


def test_config_prints_every_value_with_its_source() -> None:
    """Variable, value, source and default on one line each, at most 100 columns wide (L22)."""
    done = _run("config", environ=GOOD)
    assert done.returncode == 0
    assert done.stderr == ""
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert f"{ATTEMPTS} 4 environment 3" in lines
    assert "RESILIENCE_PIPELINE__PAYMENTS__TIMEOUT__SECONDS 800ms pipeline DEFAULT 30s" in lines
    assert "RESILIENCE_SERVICE__NAME service default" in lines
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "\x1b" not in done.stdout


def test_config_as_json_holds_the_same() -> None:
    """The machine's view: every row as an object, durations in seconds."""
    done = _run("config", "--json", environ=GOOD)
    rows = {row["variable"]: row for row in json.loads(done.stdout)["settings"]}
    assert rows[ATTEMPTS]["value"] == 4
    assert rows[ATTEMPTS]["source"] == ATTEMPTS
    assert rows["RESILIENCE_PIPELINE__PAYMENTS__TIMEOUT__SECONDS"]["value"] == 0.8
    assert rows["RESILIENCE_SERVER__DEADLINE"] == {
        "section": "server",
        "variable": "RESILIENCE_SERVER__DEADLINE",
        "value": None,
        "text": "none",
        "source": "default",
        "default": None,
        "default_text": "none",
        "doc": "time that a request may take",
    }


@pytest.mark.parametrize("arguments", [("config",), ("config", "--json"), ("doctor",)])
def test_no_output_shows_a_secret(arguments: tuple[str, ...]) -> None:
    """Neither table nor JSON nor a failure shows the password of a URL."""
    for url in (f"redis://u:{SECRET}@127.0.0.1:1/0", f"http://u:{SECRET}@cache"):
        done = _run(*arguments, environ={"RESILIENCE_REDIS__URL": url})
        assert SECRET not in done.stdout + done.stderr


def test_a_bad_configuration_is_told_without_a_traceback() -> None:
    """Exit status 1, the one error on standard error, nothing on standard output (L23)."""
    done = _run("config", environ={ATTEMPTS: "abc"})
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"resilience: {ATTEMPTS}='abc': expected a whole number from 1 to 1,000, or none (no limit) (default 3)\n"
    )


def test_five_mistakes_are_five_lines() -> None:
    """The command shows all of it, as a start of the service would."""
    done = _run(
        "config",
        environ={
            ATTEMPTS: "abc",
            "RESILIENCE_HEALTH__CACHE": "-1",
            "RESILIENCE_HEALTH__DETAILS": "maybe",
            "RESILIENCE_SERVER__ERRORS": "xml",
            "RESILIENCE_CONFIG_FILE": "/nowhere.toml",
        },
    )
    assert done.returncode == 1
    assert done.stderr.count("\n  - ") == 5


def test_a_typing_mistake_is_a_note_and_in_strict_mode_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table still appears, and standard error names the variable and what was meant."""
    monkeypatch.setenv("RESILIENCE_SERVER__RATELIMIT", "5/second")
    status, out, err = _main(capsys, "config")
    assert status == 0
    assert "RESILIENCE_SERVER__RATE_LIMIT " in out
    assert "ignored RESILIENCE_SERVER__RATELIMIT: no such variable (did you mean RESILIENCE_SERVER__RATE_LIMIT?)" in err
    status, out, err = _main(capsys, "config", "--strict")
    assert (status, out) == (1, "")
    assert "did you mean RESILIENCE_SERVER__RATE_LIMIT?" in err
    status, out, err = _main(capsys, "config", "--json")
    assert len(json.loads(out)["warnings"]) == 1


def test_one_pipeline_can_be_looked_at(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pipeline only inherits is shown under its own name."""
    monkeypatch.setenv("RESILIENCE_PIPELINE__DEFAULT__TIMEOUT__SECONDS", "800ms")
    status, out, _ = _main(capsys, "config", "--pipeline", "orders-api")
    assert status == 0
    assert "RESILIENCE_PIPELINE__ORDERS_API__TIMEOUT__SECONDS" in out
    assert "RESILIENCE_SERVER__" not in out


def test_a_pipeline_of_nothing_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No empty table: the sentence names what is configured instead, so a typing mistake shows."""
    assert "pass through unchanged.\n" in _main(capsys, "config", "--pipeline", "x")[1]
    monkeypatch.setenv(ATTEMPTS, "4")
    assert "configured: payments" in _main(capsys, "config", "--pipeline", "x")[1]


def test_the_file_is_named_as_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A value from the file says which file and key."""
    path = tmp_path / "r.toml"
    path.write_text('[service]\nname = "orders"\n', encoding="utf-8")
    monkeypatch.setenv("RESILIENCE_CONFIG_FILE", str(path))
    assert f"file: {path}:service.name" in _main(capsys, "config")[1]


def test_a_value_no_terminal_can_show_is_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line break or an escape sequence in a value cannot break the table or drive the terminal."""
    monkeypatch.setenv("RESILIENCE_SERVER__PROBLEM_TYPE_BASE", "x\n\x1b[31my")
    out = _main(capsys, "config")[1]
    assert r"x\n\x1b[31my" in out
    assert "\x1b" not in out


def test_bytes_that_are_no_text_do_not_stop_the_table() -> None:
    """The environment may hold anything."""
    code = "import os, sys; os.environb[b'RESILIENCE_SERVER__PROBLEM_TYPE_BASE'] = b'\\xff'; "
    code += "from resilience.__main__ import main; raise SystemExit(main(['config', '--json']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr


def test_the_committed_reference_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    """`docs/configuration.md` ends with the reference made from the schema."""
    status, out, _ = _main(capsys, "config", "--reference")
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert status == 0
    assert page.partition("<!-- reference -->\n")[2].strip() == out.strip(), (
        "run: python -m resilience config --reference, and put it after <!-- reference -->"
    )


# codes


def test_codes_prints_the_catalogue_as_markdown_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The toolkit's own codes are always known."""
    status, out, _ = _main(capsys, "codes")
    assert status == 0
    assert "RATE_LIMITED" in out
    assert "|" in out
    status, out, _ = _main(capsys, "codes", "--json")
    assert status == 0
    assert "RATE_LIMITED" in json.dumps(json.loads(out))


@pytest.mark.parametrize("path", ["shop:catalog", "shop:app", "shop:app.catalog"])
def test_codes_of_an_application(tmp_path: Path, path: str) -> None:
    """The catalogue of a service in the current directory, named itself or through the object that holds it."""
    (tmp_path / "shop.py").write_text(
        "from types import SimpleNamespace\nfrom resilience.envelope import ErrorCatalog\n"
        "catalog = ErrorCatalog('shop')\n"
        "catalog.define('SHOP_V001', 'Out of stock.', http_status=409)\n"
        "app = SimpleNamespace(catalog=catalog)\n",
        encoding="utf-8",
    )
    done = _run("codes", "--app", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "SHOP_V001" in done.stdout


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nonsense", "expected MODULE:ATTRIBUTE"),
        ("no_such_module_at_all:x", "No module named"),
        ("json:nothing", "no attribute"),
        ("json:dumps", "expected an ErrorCatalog"),
    ],
)
def test_codes_of_what_is_no_application(capsys: pytest.CaptureFixture[str], path: str, message: str) -> None:
    """Each wrong path is one line that says what is wrong with it."""
    status, out, err = _main(capsys, "codes", "--app", path)
    assert (status, out) == (1, "")
    assert message in err


SHOP = """
from resilience.envelope import ErrorCatalog
catalog = ErrorCatalog("shop")
catalog.define("SHOP_V001", "Out of stock.", http_status={status})
"""


def test_codes_keep_their_promises(tmp_path: Path) -> None:
    """A committed lock file passes until a code is gone or means something else; then the check fails and says what."""
    (tmp_path / "shop.py").write_text(SHOP.format(status=409), encoding="utf-8")
    before = _run("codes", "--app", "shop:catalog", "--check", cwd=tmp_path)
    assert before.returncode == 1
    assert "error-codes.lock.json: No such file or directory; write it with --lock" in before.stderr
    assert _run("codes", "--app", "shop:catalog", "--lock", cwd=tmp_path).returncode == 0
    done = _run("codes", "--app", "shop:catalog", "--check", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "no code is gone, and none means something else.\n")
    (tmp_path / "shop.py").write_text(SHOP.format(status=404), encoding="utf-8")
    done = _run("codes", "--app", "shop:catalog", "--check", "error-codes.lock.json", cwd=tmp_path)
    assert done.returncode == 1
    assert "FAIL  SHOP_V001: http_status was 409, is 404\n" in done.stdout
    assert done.stdout.endswith("3 promises broken.\n")
    (tmp_path / "shop.py").write_text(SHOP.format(status=409).replace("V001", "V002"), encoding="utf-8")
    done = _run("codes", "--app", "shop:catalog", "--check", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "FAIL  SHOP_V001 is gone",
        "new   SHOP_V002",
        "1 promise broken; 1 not in error-codes.lock.json yet: run --lock.",
    ]


@pytest.mark.parametrize(
    "content", ["<<<<<<< HEAD\n{", '{"version": 1, "codes": {"SHOP_V001": {"http_status": "409"}}}']
)
def test_a_lock_file_that_is_none_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str) -> None:
    """One in conflict, or changed by hand, is answered with its path and what to do, and never compared."""
    path = tmp_path / "bad.json"
    path.write_text(content, encoding="utf-8")
    status, out, err = _main(capsys, "codes", "--check", str(path))
    assert (status, out) == (1, "")
    assert err == f"resilience: --check {path}: not a lock file; write it with --lock\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--check", "."), "Is a directory"), (("--lock", "no/such/place.json"), "No such file or directory")],
)
def test_a_lock_file_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    """A lock file that can be neither read nor written is one line that says why."""
    status, _, err = _main(capsys, "codes", *arguments)
    assert status == 1
    assert message in err


# doctor


def test_doctor_is_well_on_this_machine() -> None:
    """One line a check, and status 0 when nothing is wrong."""
    done = _run("doctor")
    assert done.returncode == 0, done.stdout
    assert "ok    python" in done.stdout
    assert "All is well." in done.stdout


def test_doctor_finds_a_bad_configuration(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """All problems are listed, and the status says so."""
    monkeypatch.setenv(ATTEMPTS, "abc")
    monkeypatch.setenv("RESILIENCE_HEALTH__CACHE", "-1")
    status, out, _ = _main(capsys, "doctor")
    assert status == 1
    assert "FAIL  configuration" in out
    assert ATTEMPTS in out
    assert "RESILIENCE_HEALTH__CACHE" in out
    assert "1 thing to fix." in out


def test_doctor_prints_json_for_programs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`--json` has the same findings and the same status, each as one object: ok, fail or absent."""
    status, out, _ = _main(capsys, "doctor", "--json")
    found = json.loads(out)
    assert (status, found["is_well"]) == (0, True)
    words = {each["subject"]: each["status"] for each in found["findings"]}
    assert (words["python"], words["redis server"]) == ("ok", "absent")
    monkeypatch.setenv(ATTEMPTS, "a\nb\x1b[31m")
    status, out, _ = _main(capsys, "doctor", "--json")
    found = json.loads(out)
    assert (status, found["is_well"]) == (1, False)
    (failed,) = (each for each in found["findings"] if each["status"] == "fail")
    assert (failed["subject"], ATTEMPTS in failed["text"]) == ("configuration", True)
    assert "\x1b" not in failed["text"]


def test_doctor_finds_a_typing_mistake(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a start would only warn about, a check-up reports."""
    monkeypatch.setenv("RESILIENCE_SERVER__RATELIMIT", "1")
    status, out, _ = _main(capsys, "doctor")
    assert status == 1
    assert "did you mean RESILIENCE_SERVER__RATE_LIMIT?" in out


def test_milliseconds_without_a_unit_are_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`doctor` fails for a number of seconds that looks like milliseconds, and `config` warns of it."""
    monkeypatch.setenv("RESILIENCE_PIPELINE__P__TIMEOUT__SECONDS", "800")
    line = "RESILIENCE_PIPELINE__P__TIMEOUT__SECONDS=800: 800 seconds is an unusual time here"
    status, out, _ = _main(capsys, "doctor")
    assert (status, line in out, "probably milliseconds" in out) == (1, True, True)
    status, _, errors = _main(capsys, "config")
    assert (status, f"resilience: {line}" in errors) == (0, True)


def test_doctor_lists_the_pipelines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that code can ask for stand side by side, the one that all inherit from first."""
    assert "-     pipelines           none is configured\n" in _main(capsys, "doctor")[1]
    monkeypatch.setenv(ATTEMPTS, "4")
    monkeypatch.setenv("RESILIENCE_PIPELINE__DEFAULT__TIMEOUT__SECONDS", "800ms")
    assert "ok    pipelines           default, payments\n" in _main(capsys, "doctor")[1]


def test_doctor_shows_the_policies_of_each_client(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: each client's effective policies are listed, with the values that are set or that only clients have."""
    monkeypatch.setenv("RESILIENCE_PIPELINE__DEFAULT__TIMEOUT__SECONDS", "1s")
    monkeypatch.setenv("RESILIENCE_PIPELINE__PAYMENTS__BREAKER__FAIL_MAX", "3")
    monkeypatch.setenv("RESILIENCE_PIPELINE__BATCH__ENABLED", "false")
    out = _main(capsys, "doctor")[1]
    usual = "retry attempts=3* timeout=30s*, breaker failure_rate_threshold=0.5* reset_timeout=30s*, timeout seconds=1s"
    lines = [line.removeprefix("ok    clients").strip() for line in out.splitlines()]
    start = lines.index(f"http: {usual}")
    assert lines[start + 1 : start + 5] == [
        "batch: none: calls pass through unguarded",
        "payments: retry attempts=3* timeout=30s*, breaker fail_max=3 reset_timeout=30s*, timeout seconds=1s",
        f"any other gRPC service: {usual}",
        "* client default; ENABLED=false removes a policy",
    ]


def test_doctor_tells_how_to_install_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed is no failure, and comes with the command that installs it."""
    monkeypatch.setitem(sys.modules, "flask", None)
    finding = doctor.check_extra("flask", "flask")
    assert finding.is_fine is None
    assert 'pip install "resilience-plugins[flask]"' in finding.text


def test_doctor_reports_an_extra_that_does_not_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Installed and broken is a failure with its reason."""
    (tmp_path / "broken_extra.py").write_text("raise OSError('libgrpc.so: wrong ELF class')", encoding="utf-8")
    (tmp_path / "plain_extra.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    finding = doctor.check_extra("grpc", "broken_extra")
    assert finding.is_fine is False
    assert "wrong ELF class" in finding.text
    assert doctor.check_extra("plain", "plain_extra").text == "importable, version unknown"


def test_doctor_knows_the_extras_that_do_something(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is advised in vain, and nothing that has an adapter is left out."""
    subjects = [line.split()[1] for line in _main(capsys, "doctor")[1].splitlines() if line[:2] in {"ok", "- "}]
    extras = ["redis", "fastapi", "flask", "grpc", "httpx2", "httpx", "requests", "sqlalchemy", "psycopg"]
    assert subjects[2:11] == extras


def test_doctor_says_of_a_server_it_could_not_ask_only_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package nobody was asked, so nobody failed to answer."""
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setenv("RESILIENCE_REDIS__URL", f"redis://:{SECRET}@localhost:1/0")
    out = _main(capsys, "doctor")[1]
    assert "redis://:***@localhost:1/0: shared state needs the redis package" in out
    assert "does not answer" not in out


# demo


def test_the_demo_gets_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything after `demo` belongs to the demo, `--help` included; its status is ours."""
    seen: list[list[str]] = []

    class Stage:
        @staticmethod
        def main(arguments: list[str]) -> int | None:
            seen.append(arguments)
            return 3 if arguments else None

    monkeypatch.setitem(sys.modules, "resilience_demo", Stage)
    assert command_line.main(["demo", "--fast", "--help"]) == 3
    assert command_line.main(["demo"]) == 0
    assert seen == [["--fast", "--help"], []]


def test_a_demo_without_its_extra_names_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named, with the command that installs it."""

    class Stage:
        @staticmethod
        def main(arguments: list[str]) -> int:
            raise ModuleNotFoundError("No module named 'rich'", name="rich")

    monkeypatch.setitem(sys.modules, "resilience_demo", Stage)
    status, _, err = _main(capsys, "demo")
    assert status == 1
    assert err == 'resilience: the demo needs rich: pip install "resilience-plugins[demo]"\n'


def test_a_mistake_of_our_own_is_not_blamed_on_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the toolkit that does not import is a bug, and shows as one."""

    class Stage:
        @staticmethod
        def main(arguments: list[str]) -> int:
            raise ModuleNotFoundError("No module named 'resilience.nothing'", name="resilience.nothing")

    monkeypatch.setitem(sys.modules, "resilience_demo", Stage)
    with pytest.raises(ModuleNotFoundError):
        demo.run([])


# The frame


@pytest.mark.parametrize("arguments", [(), ("nothing",), ("config", "--nothing"), ("config", "x")])
def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    """As every command line does."""
    with pytest.raises(SystemExit) as left:
        command_line.main(list(arguments))
    assert left.value.code == 2
    assert "usage: resilience" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("config", "--nope"), ("doctor", "x"), ("config", "--reference", "--json")])
def test_wrong_usage_of_a_command_is_answered_with_its_own(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """What is shown is how the command is used, and all mistakes are spelt alike."""
    with pytest.raises(SystemExit) as left:
        command_line.main(list(arguments))
    assert left.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"usage: resilience {arguments[0]} [-h]")
    assert "unrecognized arguments" in err or "not allowed with argument" in err


def test_help_keeps_the_names_of_things(capsys: pytest.CaptureFixture[str]) -> None:
    """A description is a sentence, in which a name stays as it is written."""
    with pytest.raises(SystemExit):
        command_line.main(["doctor", "--help"])
    assert "Check this machine: Python, extras, configuration, Redis." in capsys.readouterr().out


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Both answer with status 0."""
    for argument, text in (("--version", "resilience-plugins "), ("--help", "doctor")):
        with pytest.raises(SystemExit) as left:
            command_line.main([argument])
        assert left.value.code == 0
        assert text in capsys.readouterr().out


def test_a_closed_pipe_is_no_error() -> None:
    """`resilience config | head -1` ends without a word."""
    script = f"{sys.executable} -m resilience config | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=30)  # noqa: S607 - any bash
    assert done.stdout.strip() in {"0", "141"}
    assert done.stderr == ""


def test_a_closed_pipe_has_the_status_of_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status a shell gives to what a closed pipe ended."""

    def closed(_arguments: argparse.Namespace, _paint: Paint) -> CommandOutput:
        raise BrokenPipeError

    monkeypatch.setattr("resilience.cli.config.run", closed)
    assert command_line.main(["config"]) == 141


def test_an_interrupt_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the command with the usual status and no traceback."""

    def interrupted(_arguments: argparse.Namespace, _paint: Paint) -> CommandOutput:
        raise KeyboardInterrupt

    monkeypatch.setattr("resilience.cli.config.run", interrupted)
    status, out, err = _main(capsys, "config")
    assert (status, out, err) == (128 + signal.SIGINT, "", "")


def test_colours_are_for_terminals() -> None:
    """On a terminal defaults step back; in a pipe there is nothing but text."""
    assert Paint(is_on=True).dim("x") == "\x1b[2mx\x1b[0m"
    plain: Any = Paint(is_on=False)
    assert [plain.dim("x"), plain.bold("x"), plain.good("x"), plain.bad("x")] == ["x"] * 4
