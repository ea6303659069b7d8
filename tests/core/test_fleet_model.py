"""The model of a fleet on one Redis, with a hundred instances: `tests/bench/fleet_model.py`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from fleet_breakers import Sharing, play_flaky, play_trip
from fleet_limits import Load, exact, leased, play_limit
from fleet_model import FLEET, FleetTable
from fleet_server import Costs

from resilience.fleet._machine import BEAT

pytestmark = [pytest.mark.once, pytest.mark.no_cover]

FLEET_OF_100 = Load(100, calm_seconds=2)


def test_a_script_for_each_decision_spends_no_token_too_many() -> None:
    """While one Redis is fast enough, the fleet spends rate x time + burst exactly, one operation for each call."""
    seen = play_limit(FLEET_OF_100, exact)
    assert (seen.over, seen.refused_calm) == (0, 0)
    assert seen.first_second == pytest.approx(2, abs=0.01)
    assert seen.steady == pytest.approx(1, abs=0.01)
    assert seen.overload == pytest.approx(3000, rel=0.1)


def test_leases_cost_a_tenth_of_the_operations() -> None:
    """With leases an instance asks at most four times a second, and the fleet exceeds its limit by those alone.

    The calm calls are half of the limit, so the leases hold half a second of it when the overload begins.
    """
    seen = play_limit(FLEET_OF_100, leased)
    assert seen.refused_calm == 0
    assert seen.calm < 200
    assert seen.overload < 400
    assert 0.93 < seen.steady < 1.05
    assert 0 < seen.over < 0.5
    assert seen.jain > 0.8


def test_leases_take_nothing_from_quiet_instances() -> None:
    """Of very unequal instances the quiet half gets most of its calls through, the loudest tenth a small part."""
    seen = play_limit(dataclasses.replace(FLEET_OF_100, is_even=False), leased)
    assert seen.small > 0.6
    assert seen.large < 0.3


def test_a_redis_beyond_its_capacity_makes_the_instances_decide_alone() -> None:
    """If scripts wait longer than the timeout, the instances share the limit evenly, and the fleet spends too much."""
    seen = play_limit(FLEET_OF_100, exact, Costs(script=1 / 1000))
    assert seen.core > 0.9
    assert seen.over > 0
    assert seen.steady < 2.1


def test_all_know_of_a_trip_within_a_hundred_milliseconds() -> None:
    """By messages the last instance refuses 0.1 s after the fleet opens; by rounds alone it takes one beat at most."""
    heard, polled = (play_trip(Sharing(100, 3, is_published=each)) for each in (True, False))
    alone = play_trip(Sharing(100, None))
    assert heard.spread is not None
    assert heard.spread < 0.1
    assert polled.spread is not None
    assert polled.spread < 1.1 * BEAT + 0.01
    assert heard.last < polled.last < alone.last
    assert heard.wasted < polled.wasted < alone.wasted
    assert alone.operations == 0


def test_a_flaky_instance_cannot_open_a_fleet_that_has_a_quorum() -> None:
    """One instance that cannot reach the dependency refuses the calls of all, unless the fleet asks for more votes."""
    assert play_flaky(Sharing(100, 1), flaky=1).refused > 0.5
    assert play_flaky(Sharing(100, 3), flaky=1).refused == 0
    assert play_flaky(Sharing(100, 3), flaky=5).refused > 0.5  # a number does not grow with the fleet
    assert play_flaky(Sharing(100, 0.5), flaky=5).refused == 0


def test_the_same_seed_gives_the_same_figures() -> None:
    """A table does not depend on the machine: no clock, and all chance from one seed."""
    assert play_trip(Sharing(50, 0.5)) == play_trip(Sharing(50, 0.5))
    assert play_limit(Load(20), leased) == play_limit(Load(20), leased)
    assert play_limit(Load(20), leased) != play_limit(Load(20, seed=2), leased)


@pytest.mark.parametrize("table", FLEET, ids=lambda table: table.key)
def test_each_table_is_on_the_page(table: FleetTable) -> None:
    """Every table of the model has rows of one length for any size, and is on the page."""
    rows = list(table.rows((100,)))
    assert len(rows) > 2
    assert {len(row) for row in rows} == {len(table.headings) + 2}
    assert f"(`{table.key}`)" in (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
