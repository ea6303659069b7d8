from __future__ import annotations

import dataclasses
from collections.abc import Callable

import harness
import pytest
import report
import run
import samples
from harness import Case, Contender, Effort, Figure, Sample, Session, Unavailable, Unit

TINY = Effort(rounds=2, sample_ns=1, best_of=1)


def taking(*nanoseconds: float) -> Callable[[Session], Sample]:
    """Stand for a contender whose samples take these nanoseconds, one after the other, the last one for ever."""

    def build(_session: Session) -> Sample:
        left = list(nanoseconds)
        return lambda _number: left.pop(0) if len(left) > 1 else left[0]

    return build


def missing(_session: Session) -> Sample:
    raise Unavailable("not installed: pip install nothing")


def case(*contenders: Contender, key: str = "trivial", unit: Unit = Unit.NANOSECONDS) -> Case:
    return Case(key, f"The {key} case", Contender("bare", taking(100)), contenders, unit, largest=1)


def figures_of(measured: Case) -> dict[str, Figure]:
    with Session(TINY) as session:
        return {figure.contender.name: figure for figure in harness.measure(measured, session)}


def test_a_figure_is_the_difference_to_the_bare_call_of_the_same_round() -> None:
    """A guarded call of 300 ns beside a bare one of 100 ns has added 200 ns and reaches a third of its speed."""
    guarded = figures_of(case(Contender("guarded", taking(300))))["guarded"]
    assert (guarded.each, guarded.added) == (300, 200)
    assert guarded.share == pytest.approx(1 / 3)


def test_one_slow_round_does_not_move_the_figure() -> None:
    """The median over the rounds stands, whatever one disturbed round says."""
    with Session(dataclasses.replace(TINY, rounds=5)) as session:
        disturbed = case(Contender("guarded", taking(300, 300, 90_000, 300)))
        figures = harness.measure(dataclasses.replace(disturbed, largest=0), session)
    assert figures[1].added == 200


def test_who_is_missing_is_left_out_with_the_reason() -> None:
    """A library that is not installed costs its row, not the table."""
    measured = case(Contender("absent", missing), Contender("guarded", taking(300), budget=200))
    rows = report.cells(measured, figures_of(measured).values())
    assert [row[-1] for row in rows[1:]] == ["", "left out: not installed: pip install nothing", "met"]


def test_without_the_bare_call_there_is_no_figure() -> None:
    """What cannot be compared is not reported."""
    nothing = dataclasses.replace(case(Contender("guarded", taking(300))), bare=Contender("bare", missing))
    assert {figure.unavailable for figure in figures_of(nothing).values()} == {"not installed: pip install nothing"}


@pytest.mark.parametrize(
    ("unit", "took", "budget", "verdict"),
    [
        (Unit.NANOSECONDS, 300, 200, "met"),
        (Unit.NANOSECONDS, 300, 100, "missed by 100%"),
        (Unit.SHARE, 125, 0.8, "met"),
        (Unit.SHARE, 200, 0.8, "missed by 38%"),
    ],
)
def test_a_budget_is_judged_honestly(unit: Unit, took: float, budget: float, verdict: str) -> None:
    """Added time has to stay at or below its budget, a share at or above it."""
    measured = case(Contender("guarded", taking(took), budget=budget), unit=unit)
    assert report.cells(measured, figures_of(measured).values())[-1][-1] == verdict


def test_a_row_has_the_facts_that_its_sample_reports() -> None:
    """CPU time of the client and commands of the server stand beside the verdict."""

    def build(session: Session) -> Sample:
        session.beside["guarded"] = samples.account(5200, 0.016)
        return taking(125)(session)

    measured = case(Contender("guarded", build, budget=0.8), unit=Unit.SHARE)
    row = list(report.cells(measured, figures_of(measured).values()))[-1]
    assert row[-1] == "met; client 5.2 us CPU, 0.016 commands"


def test_tables_line_up() -> None:
    """Names start in one column and numbers end in one."""
    first, ruler, *rest = report.aligned([("", "ns", ""), ("bare", "1", ""), ("guarded", "1,000", "met")]).splitlines()
    assert first.index("ns") + 2 == rest[0].index("1") + 1 == rest[1].index("1,000") + 5
    assert ruler == "-------  -----  ---"


def test_only_names_the_tables_that_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """`--only` measures the tables whose name starts so, and no other."""
    groups = [("Some", [case(key="one"), case(key="two")]), ("More", [case(key="twofold")])]
    assert run.main(["--quick", "--only", "two"], groups, ()) == 0
    printed = capsys.readouterr().out
    assert "[two]" in printed
    assert "[twofold]" in printed
    assert "[one]" not in printed


@pytest.mark.parametrize("arguments", [["--only", "nonsense"], ["--write", "--quick"], ["--write", "--only", "one"]])
def test_what_cannot_be_meant_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A table that does not exist, and a page of hasty or partial figures, are usage errors."""
    with pytest.raises(SystemExit, match="2"):
        run.main(arguments, [("Some", [case(key="one")])], ())
    assert "error:" in capsys.readouterr().err


def test_every_case_is_there_without_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases name what they compare without importing it; their names are unique, and someone has a budget to meet."""
    monkeypatch.setattr(harness, "peer", lambda module, distribution=None: pytest.fail(f"{module} was imported"))
    cases = [each for _, group in run.load() for each in group]
    keys = [each.key for each in cases]
    assert len(set(keys)) == len(keys)
    assert any(contender.budget for each in cases for contender in each.contenders)


def test_the_page_says_where_and_how_it_was_measured() -> None:
    """The page carries machine, Python, date, set-ups, verdicts and the way to do it again."""
    measured = case(Contender("guarded", taking(300), "with a window", budget=100))
    text = report.page([("Group", [(measured, list(figures_of(measured).values()))])])
    for piece in (
        "tests/bench/run.py --write",
        "Measured on",
        "CPython",
        "- guarded: with a window",
        "**0 of 1 budgets",
    ):
        assert piece in text
    assert "| guarded | 300 | 200 | 3.0 | 100 | missed by 100% |" in text


def test_calls_are_really_made() -> None:
    """A sample makes the number of calls it is asked for, with the arguments it was given, in either colour."""
    seen: list[tuple[object, ...]] = []

    async def awaited(argument: object) -> None:
        seen.append((argument,))

    samples.calls(lambda: seen.append(()))(2)
    samples.calls(lambda one: seen.append((one,)), 1)(2)
    samples.calls(lambda one, two: seen.append((one, two)), 1, 2)(2)
    samples.keyed(lambda key: seen.append((key,)), ["a", "b"])(3)
    samples.keyed(lambda first, key: seen.append((first, key)), ["a"], 0)(1)
    with Session(TINY) as session:
        samples.awaits(session, awaited)(65)
    assert seen == [(), (), (1,), (1,), (1, 2), (1, 2), ("a",), ("b",), ("a",), (0, "a"), *[(1,)] * 65]
