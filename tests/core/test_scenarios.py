from __future__ import annotations

import asyncio
import math
import re
from pathlib import Path

import pytest
import report
import run
import scenarios
from harness import Unavailable
from legs import sampled
from scenarios_guards import BUDGETED, CONSECUTIVE, NAIVE, bare
from scenarios_ours import LEASED, RAMPED, RUNNING, SECONDS, STRICT, TIMED, WIDE, WINDOW
from scenarios_world import Call, Guard, World

pytestmark = pytest.mark.no_cover  # hundreds of thousands of calls that pass the same lines

SEEDS = sampled((1, 2, 3), every=3)
WELL = (WINDOW, STRICT, SECONDS, RUNNING, CONSECUTIVE)


def named(guard: Guard) -> str:
    return guard.name


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("errors", [0.005, 0.02])
@pytest.mark.parametrize("guard", WELL, ids=named)
def test_a_burst_on_a_healthy_upstream_trips_nothing(guard: Guard, errors: float, seed: int) -> None:
    """Four times the traffic with a natural share of errors is no outage: not one caller is refused."""
    tally = scenarios.burst(guard, errors, seconds=9, seed=seed)
    assert tally.asked > 1000
    assert tally.refused_at == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("guard", [WINDOW, CONSECUTIVE], ids=named)
def test_a_dead_upstream_is_found_out_at_once(guard: Guard, seed: int) -> None:
    """At 500 calls/s and 50 ms an error the circuit is open within 0.3 s, and less than 5 % of the calls are wasted."""
    seen = scenarios.outage(guard, 0.05, lasts=6, seed=seed)
    assert seen.opened_after is not None
    assert seen.opened_after < 0.3
    assert seen.wasted < 0.05 * seen.callers


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("guard", [WINDOW, CONSECUTIVE], ids=named)
def test_an_upstream_that_is_back_is_used_again(guard: Guard, seed: int) -> None:
    """After the outage the last caller without an answer asked within one open period and one trial call."""
    seen = scenarios.outage(guard, 0.05, lasts=6, seed=seed)
    assert 0 < seen.recovered_after < 5.2


@pytest.mark.parametrize("guard", [TIMED, RUNNING], ids=named)
def test_a_hanging_upstream_is_found_out_while_calls_hang(guard: Guard) -> None:
    """Calls that hang for 5 s open the circuit after 0.8 s, by a timeout inside or by counting running calls."""
    quick = scenarios.outage(guard, 5.0, lasts=6)
    without = scenarios.outage(WINDOW, 5.0, lasts=6)
    assert quick.opened_after is not None
    assert without.opened_after is not None
    assert quick.opened_after < 1.1
    assert without.opened_after > 5
    assert quick.wasted < without.wasted / 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ramp_spares_an_upstream_that_comes_back_cold(seed: int) -> None:
    """Where traffic returns at once it fails the upstream again; with a ramp hardly a call is too many."""
    _, errors_at_once, _ = scenarios.cold_start(WINDOW, seed=seed)
    _, errors_with_ramp, _ = scenarios.cold_start(RAMPED, seed=seed)
    assert errors_at_once > 20
    assert errors_with_ramp < errors_at_once / 5


def test_a_trial_call_that_hangs_holds_nobody_up_with_a_short_lease() -> None:
    """A lease of 1 s replaces a hung trial call: the circuit closes soon after the upstream is back."""
    seen = scenarios.outage(LEASED, 5.0, lasts=12)
    assert seen.recovered_after < 1.2  # one lease, and the trial that follows


@pytest.mark.parametrize("seed", SEEDS)
def test_a_wide_window_bears_errors_below_its_threshold(seed: int) -> None:
    """40 % errors never trip a threshold of 50 % over 1000 calls: nobody is refused."""
    assert scenarios.partial(WIDE, seconds=10, seed=seed)[1].refused_at == []


@pytest.mark.parametrize("seed", SEEDS)
def test_errors_above_the_threshold_are_shed(seed: int) -> None:
    """40 % errors trip a threshold of 30 %: most callers are refused and most failing calls are spared."""
    upstream, tally = scenarios.partial(STRICT, seconds=15, seed=seed)
    unguarded, _ = scenarios.partial(bare(), seconds=15, seed=seed)
    assert tally.shed > 0.5
    assert upstream.failures < 0.3 * unguarded.failures


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("guard", BUDGETED, ids=named)
def test_a_budget_keeps_retries_from_becoming_the_outage(guard: Guard, seed: int) -> None:
    """On total outage at 500 calls/s the upstream gets less than 1.2 calls for each one asked for."""
    assert scenarios.amplification(guard, seconds=8, seed=seed) < 1.2


def test_without_a_budget_every_attempt_is_made() -> None:
    """What the budget prevents is real: three attempts make three calls of one."""
    assert scenarios.amplification(NAIVE, seconds=4) == pytest.approx(3.0)


def test_the_same_seed_tells_the_same_story() -> None:
    """A scenario is exact: played twice, it has the same figures; another seed has others."""
    first, again, other = (scenarios.outage(WINDOW, 0.05, lasts=3, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_time_passes_only_when_everybody_waits() -> None:
    """A world in which nothing is due says so instead of standing still."""

    async def stuck() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing is due"):
        World().play(stuck())


def test_the_page_tells_every_scenario() -> None:
    """docs/performance.md holds each scenario, and writing the same again changes nothing before them."""
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    for scenario in scenarios.SCENARIOS:
        assert f"(`{scenario.key}`)" in text
    rewritten = report.with_played(text, [(scenarios.SCENARIOS[0], [("", "of all", ""), ("bare", "1", "")])])
    assert rewritten.startswith(text.partition("\n## Scenarios")[0])
    assert re.findall(r"\(`scenarios-\w+`\)", rewritten) == [f"(`{scenarios.SCENARIOS[0].key}`)"]
    assert text.count("\n## A fleet on one Redis\n") == 1
    assert rewritten.endswith("\n## A fleet on one Redis\n" + text.partition("\n## A fleet on one Redis\n")[2])


def test_scenarios_alone_are_played_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`--only` plays the scenarios whose key starts so; a library that is missing costs its row alone."""

    def build(_world: World, _call: Call) -> Call:
        raise Unavailable("not here")

    absent = Guard("absent", build, lambda: OSError)
    scenario = scenarios.Scenario(
        "scenarios-tiny", "Tiny", "", ("waste",), (bare(), absent), lambda guard: (str(_wasted(guard)),)
    )
    assert run.main(["--only", "scenarios"], [], (scenario,)) == 0
    printed = capsys.readouterr().out
    assert "[scenarios-tiny]" in printed
    assert "left out: not here" in printed


def _wasted(guard: Guard) -> int:
    seen = scenarios.outage(guard, 0.05, lasts=1, rate=20)
    assert math.isclose(seen.recovered_after, 0, abs_tol=0.1)
    return seen.wasted
