"""What a scenario is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.figures import Figure
from bench.systems import Run


@dataclass(frozen=True, slots=True)
class Scenario:
    """`run` starts the systems it needs, lets them take turns, and files samples under `figures`.

    `needs_tools`: it cannot be run at all without Java and Kafka's jars. `quick`: it is part of a quick run.
    """

    name: str
    title: str
    figures: Sequence[Figure]
    run: Callable[[Run], None]
    needs_tools: bool = True
    quick: bool = True
