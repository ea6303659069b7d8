"""The table of the faults of Redis, with the figures that `tests/redis/faults/measure.py` has measured."""

from __future__ import annotations

import json
from pathlib import Path

from redis_faults import BURST, FAULTS, RATE

__all__ = ("table",)

FIGURES = Path(__file__).with_name("redis_faults.json")
LOADS = ("blocking", "awaiting", "breaker")


def table() -> str:
    """Return a row for each fault, and the law that the figures are about."""
    measured: dict[str, dict[str, dict[str, float]]] = json.loads(FIGURES.read_text())
    heads = (
        "Redis",
        "a caller sees",
        "calls lost",
        "longest decision",
        "tokens beyond the law",
        "in use again",
        "setting",
    )
    rows: list[tuple[str, ...]] = [heads, ("---",) * len(heads)]
    for fault in FAULTS:
        found = [measured[fault.name][load] for load in LOADS]
        lost, over = (
            " / ".join(f"{each['lost']:.0f}" for each in found),
            " / ".join(f"{each['over']:.0f}" for each in found[:2]),
        )
        delay, recovery = (" / ".join(f"{1000 * each[name]:.0f}" for each in found) for name in ("delay", "recovery"))
        rows.append((fault.title, fault.seen, lost, f"{delay} ms", over, f"{recovery} ms", fault.setting))
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    law = f"The limit is {RATE} per second with a burst of {BURST}."
    return f"{law} The figures are those of threads / of tasks / of a shared breaker.\n\n{lines}"
