"""What a scenario is, and what plans of its length count with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.figures import Figure
from bench.systems import Run

PRODUCED_PER_S, READ_PER_S = 92_000, 170_000
"""Records of 1 KiB a second, of a system on two busy cores."""
SINGLES_PER_S = 14_000
TOOL_S = 2.0
"""The start of one of Kafka's tools."""
START_S, CLUSTER_START_S = 6.0, 15.0
"""Of all systems, of one broker or three, with what ends them."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`run` starts the systems it needs, lets them take turns, and files samples under `figures`.

    `seconds` is how long that takes, about, on a machine of two cores; `rounds` how often it is done in a full run.
    `needs_tools`: it cannot be run at all without Java and Kafka's jars. `quick`: it is part of a quick run.
    """

    name: str
    title: str
    figures: Sequence[Figure]
    run: Callable[[Run], None]
    seconds: Callable[[Run], float]
    rounds: int = 3
    needs_tools: bool = True
    quick: bool = True


def producing_s(records: int, per_second: int = PRODUCED_PER_S) -> float:
    return TOOL_S + records / per_second


def reading_s(records: int) -> float:
    return TOOL_S + records / READ_PER_S
