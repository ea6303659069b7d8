"""Reads the ledger of the stock and the journal of all services. Both are independent of the answers to customers."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from pathlib import Path

from resilience_demo.chain._stage import Audit

__all__ = ("audit", "noted")


def audit(ledger: Path, item: str) -> Audit:
    """Return the bookings and the remaining number of `item`."""
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        parcels = "SELECT count(*), coalesce(sum(asked > 1), 0) FROM parcels WHERE item = ?"
        booked, asked_again = database.execute(parcels, (item,)).fetchone()
        (remaining,) = database.execute("SELECT remaining FROM shelves WHERE item = ?", (item,)).fetchone()
    return Audit(booked, remaining, asked_again)


def noted(journal: Path) -> dict[str, int]:
    """Return how many parcels each service has noted. A parcel that a service has noted twice counts once."""
    lines = set(journal.read_text().splitlines())
    return Counter(line.partition(" ")[2] for line in lines)
