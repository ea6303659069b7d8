"""The orders of the customers and their outcomes. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ("ChainRecord", "Order")

_OK = 200


class Order(NamedTuple):
    """One order and its answer. `began` and `ended` are in seconds since the first order."""

    began: float
    ended: float
    status: int
    """0 if no answer came."""
    code: str
    packed_by: str = ""
    booked_by: str = ""

    @property
    def is_sold(self) -> bool:
        """Whether the shop answered that the parcel is on its way."""
        return self.status == _OK


@dataclass
class ChainRecord:
    """The ended orders, and the number of all orders sent."""

    orders: list[Order] = field(default_factory=list)
    sent: int = 0

    @property
    def waiting(self) -> int:
        """The number of orders in flight."""
        return self.sent - len(self.orders)

    @property
    def sold(self) -> int:
        """The number of orders that succeeded."""
        return sum(order.is_sold for order in self.orders)

    @property
    def lost(self) -> list[Order]:
        """The orders that ended with an error or without an answer."""
        return [order for order in self.orders if not order.is_sold]

    def during(self, begin: float, end: float) -> list[Order]:
        """Return the orders that were in flight at any time from `begin` to `end`."""
        return [order for order in self.orders if order.began <= end and order.ended >= begin]
