"""Reads the ledger of the stock, which records the bookings independently of the answers to customers."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from resilience_demo.chain._stage import Audit

__all__ = ("audit",)


def audit(ledger: Path, item: str) -> Audit:
    """Return the bookings and the remaining number of `item`."""
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        parcels = "SELECT count(*), coalesce(sum(asked > 1), 0) FROM parcels WHERE item = ?"
        booked, asked_again = database.execute(parcels, (item,)).fetchone()
        (remaining,) = database.execute("SELECT remaining FROM shelves WHERE item = ?", (item,)).fetchone()
    return Audit(booked, remaining, asked_again)
