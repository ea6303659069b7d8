"""Judges whether the demo of three services kept its promises. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from resilience_demo._verdict import Criterion, milliseconds
from resilience_demo.chain._record import Order
from resilience_demo.chain._stage import ChainStage, Crossing, Drain, JournalOutage, Outage

__all__ = ("judge",)

MIN_ORDERS = 5
"""The least number of orders during an incident from which the demo judges."""

_SERVICES = {"shop", "warehouse", "stock"}


def judge(stage: ChainStage) -> list[Criterion]:
    """Return the promises of the demo, each with its result and its figure."""
    return [
        *(_of_crossing(stage.crossing) if stage.crossing else ()),
        *(_of_outage(stage, stage.outage) if stage.outage else ()),
        *(_of_journal(stage, stage.journal_outage) if stage.journal_outage else ()),
        *(_of_drain(stage, stage.drain) if stage.drain else ()),
        _no_order_lost(stage),
        _booked_once(stage),
    ]


def _of_crossing(crossing: Crossing) -> Iterator[Criterion]:
    seen = crossing.sightings
    codes = {sighting.code for sighting in seen}
    ids = {(sighting.request_id, sighting.trace_id) for sighting in seen}
    services = {sighting.service for sighting in seen}
    is_one = len(codes) == 1 and ids == {(crossing.request_id, crossing.trace_id)} and services == _SERVICES
    reported = f"{' and '.join(sorted(codes))}, {len(ids)} request id and trace, told by {len(services)} of 3 services"
    yield Criterion("one error crosses all", is_one, reported)
    lefts = [sighting.left for sighting in seen if sighting.left is not None]
    is_known = len(lefts) == len(_SERVICES) - 1 and all(0 < left < crossing.given for left in lefts)
    known = [f"{milliseconds(seen_by.left)} left at the {seen_by.service}" for seen_by in seen if seen_by.left]
    given = f"{milliseconds(crossing.given)} given"
    yield Criterion("one deadline for all", is_known, ", ".join([given, *(known or ["nobody knows"])]))


def _of_outage(stage: ChainStage, outage: Outage) -> Iterator[Criterion]:
    orders = stage.record.during(outage.killed, outage.started)
    repeated = f"{outage.repeated} attempts repeated"
    yield Criterion("kill loses no order", *_without_loss(orders, f"while {outage.name} was gone", repeated))
    back = f"{outage.booked - outage.killed:.2f} s after the kill" if outage.booked < math.inf else "never"
    yield Criterion("killed instance books again", outage.booked < math.inf, back)


def _of_journal(stage: ChainStage, outage: JournalOutage) -> Iterator[Criterion]:
    orders = stage.record.during(outage.killed, outage.noted)
    longest = max((order.ended - order.began for order in orders), default=0.0)
    waited = f"the longest took {milliseconds(longest)}, {outage.repeated} attempts repeated"
    yield Criterion("orders wait for the journal", *_without_loss(orders, "while it was gone", waited))
    back = f"{outage.noted - outage.started:.2f} s after its restart" if outage.noted < math.inf else "never"
    yield Criterion("pools connect again", outage.noted < math.inf, back)
    sold, noted = stage.record.sold, stage.noted
    is_met = noted.keys() == _SERVICES and all(sold <= count <= stage.record.sent for count in noted.values())
    counts = ", ".join(f"{service} {count}" for service, count in sorted(noted.items()))
    yield Criterion("each parcel noted by all", is_met, f"{sold} sold; noted: {counts or 'none'}")


def _of_drain(stage: ChainStage, drain: Drain) -> Iterator[Criterion]:
    orders = stage.record.during(drain.signalled, drain.ended)
    mine = [order for order in orders if order.packed_by == drain.name and order.is_sold]
    finished = f"{len(mine)} of them packed by it, {drain.repeated} attempts repeated"
    yield Criterion("drain loses no order", *_without_loss(orders, f"while {drain.name} drained", finished))
    yield Criterion("unready before it closes", drain.accepted > 0, _unready(drain))
    yield Criterion("ends by itself", drain.status == 0, _ended(drain))


def _unready(drain: Drain) -> str:
    if not drain.accepted:
        return "never said 503 to /readyz"
    return f"503 after {milliseconds(drain.unready - drain.signalled)}, then {drain.accepted} more connections answered"


def _ended(drain: Drain) -> str:
    if drain.status is None:
        return "has not ended in time"
    return f"with status {drain.status}, {drain.ended - drain.signalled:.2f} s after SIGTERM"


def _without_loss(orders: list[Order], when: str, more: str) -> tuple[bool, str]:
    lost = sum(not order.is_sold for order in orders)
    return len(orders) >= MIN_ORDERS and not lost, f"{len(orders)} orders {when}, {lost} lost; {more}"


def _no_order_lost(stage: ChainStage) -> Criterion:
    record = stage.record
    counts = f"{record.sent} sent, {record.sold} sold, {record.sent - record.sold} lost"
    reasons = sorted({order.code or str(order.status) for order in record.lost})
    is_met = record.sent >= MIN_ORDERS and record.sold == record.sent
    return Criterion("no order lost", is_met, counts + (f" ({', '.join(reasons)})" if reasons else ""))


def _booked_once(stage: ChainStage) -> Criterion:
    """Judge by the ledger: each sold parcel is booked once, and the shelf has lost one item per booking."""
    booked, taken = stage.after.parcels - stage.before.parcels, stage.before.remaining - stage.after.remaining
    asked = stage.after.asked_again - stage.before.asked_again
    is_met = booked == taken and stage.record.sold <= booked <= stage.record.sent
    counts = f"{booked} parcels booked, {taken} things taken from the shelf; {asked} asked for more than once"
    return Criterion("no parcel booked twice", is_met, counts)
