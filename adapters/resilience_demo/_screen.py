"""The demo as a live screen in a terminal, drawn with rich."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from resilience_demo import _chart, _timeline
from resilience_demo._lines import policy_summaries, summary_lines
from resilience_demo._pipeline_state import Transition
from resilience_demo._record import CATALOGUES, GUARDED, OUTCOMES, PLAIN, Tally
from resilience_demo._script import Phase
from resilience_demo._stage import Stage
from resilience_demo._verdict import SERVED, Criterion

__all__ = ("HEIGHT", "WIDTH", "Screen")

WIDTH, HEIGHT = 96, 32
"""The size of the smallest terminal that shows the screen."""

_MAX_WIDTH = 130
_TITLES = {GUARDED: "with the toolkit: POST /orders", PLAIN: "without: POST /plain/orders"}
_COLOURS = {"ok": "green", "error": "red", "rejected": "yellow", "": ""}
_STATES = {"closed": "green", "open": "red", "half-open": "yellow"}
_MAX_NEWS = 4
_RECENT = 1.0
_SECOND = 1.0
_COLUMNS = {"paid": 4, "failed": 6, "refused": 7, "p50": 5, "pages": 5}
_GAUGE = 10


class Screen:
    """Draws the whole screen several times a second. The last picture remains in the terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False)
        self._news: deque[Transition] = deque(maxlen=_MAX_NEWS)

    def opened(self, stage: Stage) -> None:
        """Print the servers and start the live display."""
        for server in stage.servers:
            self._console.print(Text(f"started  {server}", style="dim"))
        self._live.start()

    def phase(self, stage: Stage) -> None:
        """Draw the new phase."""
        self.tick(stage)

    def news(self, transition: Transition) -> None:
        """Keep the transition for the next picture."""
        self._news.append(transition)

    def tick(self, stage: Stage) -> None:
        """Draw the present state."""
        log = [Text(f"{known.at:6.2f} s  {known.words}", style="dim") for known in self._news]
        self._draw(stage, log + [Text()] * (_MAX_NEWS - len(log)))

    def ended(self, stage: Stage, criteria: list[Criterion]) -> None:
        """Draw the promises and their figures, and print the summary below the last picture."""
        stage.phase = None
        self._draw(stage, [_promise(criterion) for criterion in criteria])
        self.close()
        for line in ("", *summary_lines(stage)):
            self._console.print(Text(line))

    def interrupted(self) -> None:
        """Print that a signal stopped the demo."""
        self.close()
        self._console.print("stopped")

    def failed(self, words: str) -> None:
        """Print why the demo has no result."""
        self.close()
        self._console.print(Text(words, style="red"))

    def close(self) -> None:
        """Stop the live display."""
        self._live.stop()

    def _draw(self, stage: Stage, last: Iterable[RenderableType]) -> None:
        width = min(self._console.width, _MAX_WIDTH)
        sides = Table.grid(padding=0)
        sides.add_row(*(_side(stage, side, width // 2) for side in _TITLES))
        panel = Panel(_policies(stage), title="inside the payments pipeline", title_align="left", width=width // 2 * 2)
        self._live.update(Group(_head(stage, width), sides, panel, *last), refresh=True)


def _head(stage: Stage, width: int) -> RenderableType:
    total = stage.script.seconds
    clock = Text(f"{min(stage.elapsed, total):4.1f} of {total:g} s", style="dim")
    words = Text("The provider is back, and so is the shop.", style="green")
    if stage.phase is not None:
        words = Text(stage.phase.words, style="red" if stage.phase.is_outage else "green")
    head = Table.grid(expand=True)
    head.width = width
    head.add_column(ratio=1)
    head.add_column(justify="right")
    head.add_row(_milestones(stage), clock)
    head.add_row(words, "")
    return head


def _milestones(stage: Stage) -> Text:
    """Return the phases in order, each marked as past, present or future."""
    timeline = Text()
    for number, phase in enumerate(stage.script.phases):
        timeline.append(" ── " if number else " ", style="dim")
        timeline.append(*_milestone(stage, phase))
    return timeline


def _milestone(stage: Stage, phase: Phase) -> tuple[str, str]:
    colour = "red" if phase.is_outage else "green"
    if phase is stage.phase:
        return f"● {phase.name}", f"bold {colour}"
    return (f"✓ {phase.name}", colour) if phase.name in stage.marks else (f"○ {phase.name}", "dim")


def _side(stage: Stage, side: str, width: int) -> Panel:
    colour = "cyan" if side == GUARDED else "magenta"
    slices = width - 12
    body = Group(_now(stage, side), *_bars(stage, side, slices), *_axis(stage, side, slices), _table(stage, side))
    return Panel(body, title=_TITLES[side], title_align="left", width=width, border_style=colour)


def _now(stage: Stage, side: str) -> Text:
    """Return the rates of the last second. After the last phase, return the totals."""
    if stage.phase is None:
        tally = stage.record.total(side)
        return _counts(f"{len(tally.seconds):>5}", f"{tally.outcomes['ok']:>5}", stage.record.waiting[side], stage)
    since = stage.elapsed - _RECENT
    recent = [known for known in stage.record.answers if known.side == side and known.began + known.seconds > since]
    paid = sum(answer.outcome == "ok" for answer in recent)
    return _counts(f"{len(recent):>3}/s", f"{paid:>3}/s", stage.record.waiting[side], stage)


def _counts(answered: str, paid: str, waiting: int, stage: Stage) -> Text:
    text = Text("answered ").append(answered, style="bold")
    text.append("   paid ").append(paid, style="bold").append("   in flight ")
    return text.append(f"{waiting:3}", style="bold red" if waiting > stage.script.rate else "bold")


def _bars(stage: Stage, side: str, width: int) -> Iterable[Text]:
    answers = (answer for answer in stage.record.answers if answer.side == side)
    found = _chart.columns(answers, stage.script.seconds, width)
    for label, row in zip(_chart.ROWS, _chart.rows(found), strict=True):
        line = Text(f"{label:>6} ", style="dim")
        for block, outcome in row:
            line.append(block, style=_COLOURS[outcome])
        yield line


def _axis(stage: Stage, side: str, width: int) -> Iterable[Text]:
    """Return the outcomes of the catalogue over time, and the seconds at which the phases begin."""
    pages = (answer for answer in stage.record.answers if answer.side == CATALOGUES[side])
    line = Text(" pages ", style="dim")
    for mark in _timeline.marks(pages, stage.script.seconds, width):
        line.append(mark, style="red" if mark == "x" else "green")
    yield line
    yield Text(f"{'s':>6} {_timeline.phases(stage, width, '|{seconds}')}", style="dim")


def _table(stage: Stage, side: str) -> Table:
    table = Table(box=None, padding=(0, 0, 0, 1), expand=True, pad_edge=False, header_style="dim")
    table.add_column("phase", min_width=max(len(phase.name) for phase in stage.script.phases))
    for title, width in _COLUMNS.items():
        table.add_column(title, justify="right", no_wrap=True, min_width=width)
    for phase in stage.script.phases:
        pages = stage.record.of(CATALOGUES[side], phase.name)
        table.add_row(phase.name, *_figures(stage.record.of(side, phase.name)), _served(pages))
    return table


def _figures(tally: Tally) -> Iterable[Text]:
    for outcome in OUTCOMES:
        count = tally.outcomes[outcome]
        yield Text(str(count), style=_COLOURS[outcome] if count else "dim")
    yield Text(_short(tally.percentile(0.5)))


def _served(pages: Tally) -> Text:
    """Return the share of the requests for the catalogue that were served."""
    if not pages.asked:
        return Text("-")
    share = pages.outcomes["ok"] / pages.asked
    return Text(f"{share:.0%}", style="red" if share < SERVED else "green")


def _short(seconds: float | None) -> str:
    """Return a latency in five characters."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f}ms" if seconds < _SECOND else f"{seconds:.1f}s"


def _policies(stage: Stage) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", width=8)
    table.add_column(width=11)
    for name, summary in policy_summaries(stage):
        table.add_row(name, _gauge(stage, name), summary)
    return table


def _gauge(stage: Stage, name: str) -> Text:
    pipeline = stage.pipeline
    if name == "breaker":
        return Text(f"● {pipeline.breaker}", style=f"bold {_STATES[pipeline.breaker]}")
    if name == "bulkhead" and pipeline.places:
        cells = min(_GAUGE, pipeline.places)
        taken = -(-pipeline.in_use * cells // pipeline.places)  # rounded up, so that one call in flight is visible
        return Text("■" * taken + "□" * (cells - taken), style="cyan")
    return Text()


def _promise(criterion: Criterion) -> Text:
    mark = Text("✓ ", style="green") if criterion.is_met else Text("✗ ", style="red")
    return mark.append(f"{criterion.name}: ", style="bold").append(criterion.measured)
