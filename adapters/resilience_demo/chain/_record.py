"""What the customers saw: every order, and what became of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ("Order", "Record")

_OK = 200


class Order(NamedTuple):
    """One order and its answer, `began` and `ended` in seconds since the customers came."""

    began: float
    ended: float
    status: int
    """0 where there was no answer."""
    code: str
    packed_by: str = ""
    booked_by: str = ""

    @property
    def is_sold(self) -> bool:
        """Whether the customer was told that the parcel is on its way."""
        return self.status == _OK


@dataclass
class Record:
    """All orders that were answered, or will never be, and how many still wait."""

    orders: list[Order] = field(default_factory=list)
    sent: int = 0

    @property
    def waiting(self) -> int:
        """Orders under way right now."""
        return self.sent - len(self.orders)

    @property
    def sold(self) -> int:
        """Orders that went well."""
        return sum(order.is_sold for order in self.orders)

    @property
    def lost(self) -> list[Order]:
        """Orders that did not: each is a customer who got an error, or nothing."""
        return [order for order in self.orders if not order.is_sold]

    def during(self, begin: float, end: float) -> list[Order]:
        """Return the orders that were under way at some time between the two."""
        return [order for order in self.orders if order.began <= end and order.ended >= begin]
