"""The play as lines, each written when it happens; with colours where a person looks."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from resilience_demo._verdict import Criterion, milliseconds
from resilience_demo.chain._record import Record
from resilience_demo.chain._stage import Crossing, Sighting, Stage

__all__ = ("Lines",)

_WAY = "customers --HTTP--> shop (FastAPI) --HTTP--> warehouse (Flask, 2 x) --gRPC--> stock (2 x)"
_SEEN = "  {:<10} {:<9} {:<11} request {:<14} trace {}{}"


class Lines:
    """Writes a line when something happens, and the promises at the end."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()

    def opened(self, stage: Stage) -> None:
        """Say which servers run."""
        for server in stage.servers:
            self._say(f"started  {server}", "dim")
        self._say(f"\n{_WAY}\n", "bold")

    def crossed(self, crossing: Crossing) -> None:
        """Say who told what of the error."""
        self._say("One order for something sold out; what each service says of it:")
        for sighting in crossing.sightings:
            self._say(_seen(sighting))

    def customers(self, rate: float) -> None:
        """Say that it is busy from now on."""
        self._say(f"\n{rate:g} orders a second from now on:")

    def news(self, at: float, words: str) -> None:
        """Say what happened."""
        self._say(f"{at:7.2f} s  {words}", "yellow")

    def tick(self, at: float, record: Record) -> None:
        """Say how many orders there were so far."""
        counts = f"{record.sold:5} sold  {record.waiting:3} under way  {len(record.lost):3} lost"
        self._say(f"{at:7.2f} s  {counts}", "red" if record.lost else "dim")

    def ended(self, criteria: list[Criterion]) -> None:
        """Say which promises were kept."""
        self._say("")
        for criterion in criteria:
            word, colour = ("PASS", "green") if criterion.is_met else ("FAIL", "red")
            self._say(f"{word}  {criterion.name}: {criterion.measured}", colour)

    def interrupted(self) -> None:
        """Say that it was stopped."""
        self._say("stopped")

    def failed(self, words: str) -> None:
        """Say why there is no result."""
        self._say(f"FAIL  {words}", "red")

    def _say(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style), soft_wrap=True)


def _seen(sighting: Sighting) -> str:
    left = "" if sighting.left is None else f"  {milliseconds(sighting.left)} left"
    service, source, code, request_id, trace_id, _ = sighting
    return _SEEN.format(service, source, code, request_id, f"{trace_id[:8]}..", left)
