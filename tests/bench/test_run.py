"""A run goes on when a scenario fails, keeps to its time, and leaves what it measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.__main__ import measure
from bench.figures import KAFKA, TAILRACE, Figure, Results, Target
from bench.plan import BUDGET_S, QUICK_BUDGET_S, QUICK_SCALE, Step, describe, plan
from bench.scenarios import ALL
from bench.scenarios.api import Scenario
from bench.systems import Run

JARS = Path("/anywhere")


def a_run(folder: Path, libs: Path | None = JARS) -> Run:
    return Run(libs, folder, Results())


def step(name: str, work: Callable[[Run], None], *, needs_tools: bool = False, limit_s: float | None = None) -> Step:
    figure = Figure(f"P.{name}", name, "s", Target(at_most=1.0, against=None))
    scenario = Scenario(name, name, [figure], work, lambda run: 1.0, needs_tools=needs_tools)
    return Step(scenario, 3, 1.0, limit_s)


def add(run: Run) -> None:
    run.results.add(f"P.{run.scenario}", TAILRACE, 0.5)


def fail(run: Run) -> None:
    raise TimeoutError("no record is acknowledged\nand more")


def interrupt(run: Run) -> None:
    raise KeyboardInterrupt


def test_after_a_scenario_that_fails_the_others_are_run_and_the_run_says_so(tmp_path: Path) -> None:
    run, saved = a_run(tmp_path), []
    steps = [step("one", add), step("two", fail), step("three", add)]
    assert not measure(run, steps, lambda: saved.append(len(run.results.samples)))
    assert run.results.notes == ["two: failed: TimeoutError: no record is acknowledged"]
    assert list(run.results.samples) == ["P.one", "P.three"]
    assert [figure.key for figure in run.results.unmeasured()] == ["P.two"]
    assert saved == [1, 1, 2], "what is measured is written at once"


def test_what_needs_java_is_left_out_without_it_and_that_is_no_failure(tmp_path: Path) -> None:
    run = a_run(tmp_path, libs=None)
    assert measure(run, [step("one", fail, needs_tools=True), step("two", add)], lambda: None)
    assert run.results.notes == ["one: not run, it needs Java and Apache Kafka's tools"]


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    assert not measure(run, [step("one", add), step("two", interrupt), step("three", add)], lambda: None)
    assert list(run.results.samples) == ["P.one"]
    assert run.results.notes == ["interrupted during two"]


@pytest.mark.parametrize(("limit_s", "rounds"), [(None, 3), (100.0, 3), (0.0, 1)])
def test_when_time_is_up_no_further_round_begins(tmp_path: Path, limit_s: float | None, rounds: int) -> None:
    run, turns = a_run(tmp_path), []
    assert measure(run, [step("one", lambda run: turns.extend(run.turns()), limit_s=limit_s)], lambda: None)
    assert turns == list(range(rounds))
    assert run.results.notes == ([] if rounds == 3 else ["one: 1 of 3 rounds, its time was up"])


@pytest.mark.parametrize(("quick", "budget_s"), [(False, BUDGET_S), (True, QUICK_BUDGET_S)])
def test_the_plan_fits_its_budget_with_something_to_spare(tmp_path: Path, quick: bool, budget_s: float) -> None:
    run = replace(a_run(tmp_path), scale=QUICK_SCALE if quick else 1.0)
    steps = plan(run, [each for each in ALL if each.quick or not quick], quick=quick, rounds=None, bounded=True)
    assert sum(each.seconds for each in steps) < 0.95 * budget_s
    assert sum(each.limit_s or 0 for each in steps) == pytest.approx(budget_s)
    assert all(each.limit_s is not None and each.limit_s > each.seconds for each in steps)
    assert steps[0].scenario.name in describe(steps)


def test_who_asks_for_rounds_gets_them(tmp_path: Path) -> None:
    steps = plan(a_run(tmp_path), ALL, quick=False, rounds=7, bounded=False)
    assert {(each.rounds, each.limit_s) for each in steps} == {(7, None)}


def test_ratios_that_have_a_target_are_measured_more_than_once(tmp_path: Path) -> None:
    """A median of one says nothing of how far rounds are apart."""
    alone = {each.scenario.name for each in plan(a_run(tmp_path), ALL, quick=False, rounds=None, bounded=True)
             if each.rounds == 1}  # fmt: skip
    with_ratio = {
        each.name
        for each in ALL
        if any(figure.target is not None and figure.target.against == KAFKA for figure in each.figures)
    }
    assert not alone & with_ratio
