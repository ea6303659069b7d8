"""The demo of three services as lines, one for each event, with colours in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from resilience_demo._verdict import Criterion, milliseconds
from resilience_demo.chain._record import ChainRecord
from resilience_demo.chain._stage import ChainStage, Crossing, Sighting

__all__ = ("ChainLines",)

_CALLS = "customers --HTTP--> shop (FastAPI) --HTTP--> warehouse (Flask, 2 x) --gRPC--> stock (2 x)"
_SIGHTING = "  {:<10} {:<9} {:<11} request {:<14} trace {}{}"


class ChainLines:
    """Writes a line for each event, and the promises at the end."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()

    def opened(self, stage: ChainStage) -> None:
        """Write a line for each server."""
        for server in stage.servers:
            self._write(f"started  {server}", "dim")
        self._write(f"\n{_CALLS}\n", "bold")

    def crossed(self, crossing: Crossing) -> None:
        """Write the report of each service about the error."""
        self._write("One order for something sold out; what each service says of it:")
        for sighting in crossing.sightings:
            self._write(_row(sighting))

    def customers(self, rate: float) -> None:
        """Write the rate of the orders."""
        self._write(f"\n{rate:g} orders a second from now on:")

    def news(self, at: float, words: str) -> None:
        """Write one event."""
        self._write(f"{at:7.2f} s  {words}", "yellow")

    def tick(self, at: float, record: ChainRecord) -> None:
        """Write the numbers of orders so far."""
        counts = f"{record.sold:5} sold  {record.waiting:3} under way  {len(record.lost):3} lost"
        self._write(f"{at:7.2f} s  {counts}", "red" if record.lost else "dim")

    def ended(self, criteria: list[Criterion]) -> None:
        """Write the promises and their figures."""
        self._write("")
        for criterion in criteria:
            word, colour = ("PASS", "green") if criterion.is_met else ("FAIL", "red")
            self._write(f"{word}  {criterion.name}: {criterion.measured}", colour)

    def interrupted(self) -> None:
        """Write that a signal stopped the demo."""
        self._write("stopped")

    def failed(self, words: str) -> None:
        """Write why the demo has no result."""
        self._write(f"FAIL  {words}", "red")

    def _write(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style), soft_wrap=True)


def _row(sighting: Sighting) -> str:
    left = "" if sighting.left is None else f"  {milliseconds(sighting.left)} left"
    service, source, code, request_id, trace_id, _ = sighting
    return _SIGHTING.format(service, source, code, request_id, f"{trace_id[:8]}..", left)
