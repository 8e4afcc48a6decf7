"""How long a run is going to take, and how that is kept: scenarios, rounds, and a share of the budget for each.

A scenario says how long it takes about. What the budget has beyond the sum is shared out in proportion, so that a
machine that is slower than estimated costs rounds, not time. Who asks for rounds or scenarios is not bound by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.scenarios.api import Scenario
from bench.systems import Run

BUDGET_S, QUICK_BUDGET_S = 45 * 60.0, 3 * 60.0
QUICK_SCALE = 0.1


@dataclass(frozen=True, slots=True)
class Step:
    scenario: Scenario
    rounds: int
    seconds: float
    limit_s: float | None
    """None: it takes the time that it takes."""


def plan(run: Run, scenarios: Sequence[Scenario], *, quick: bool, rounds: int | None, bounded: bool) -> list[Step]:
    """`run` says what there is to be measured; `rounds` is what was asked for."""
    steps = []
    for scenario in scenarios:
        wanted = rounds or (1 if quick else scenario.rounds)
        seconds = scenario.seconds(replace(run, rounds=wanted))
        steps.append(Step(scenario, wanted, seconds, None))
    if not bounded:
        return steps
    spare = (QUICK_BUDGET_S if quick else BUDGET_S) / sum(step.seconds for step in steps)
    return [replace(step, limit_s=step.seconds * spare) for step in steps]


def describe(steps: Sequence[Step]) -> str:
    lines = [f"  {step.scenario.name:12} rounds: {step.rounds} {minutes(step.seconds):>9}" for step in steps]
    total = minutes(sum(step.seconds for step in steps))
    return "\n".join(["plan, as estimated for a machine of two cores:", *lines, f"  {'in all':22} {total:>9}"])


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"
