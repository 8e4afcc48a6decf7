"""Figures of a benchmark run: samples by system, medians and spread, ratios, and whether a target is met.

Pure. A **figure** is one thing that is measured ("records per second at 64 KiB"), a **sample** its value for one system
in one round. Systems alternate within a run, and only ratios of their medians within it are compared with targets.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

TAILRACE, KAFKA, STUB = "tailrace", "kafka", "stub"


class Verdict(Enum):
    MET = "met"
    MISSED = "MISSED"
    UNKNOWN = "-"
    """There is no target, or nothing to compare with was measured."""


@dataclass(frozen=True, slots=True)
class Target:
    """`at_least` or `at_most`, for tailrace's median: as it is, or as a ratio to `against`: a system's median of the
    same figure, or, written `system/figure`, of another one."""

    at_least: float | None = None
    at_most: float | None = None
    against: str | None = KAFKA

    def is_met_by(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        sign, limit = (">=", self.at_least) if self.at_least is not None else ("<=", self.at_most)
        times = "x" if self.against is not None else ""
        return f"{sign} {limit:g}{times}"


@dataclass(frozen=True, slots=True)
class Figure:
    """`key` begins with the target's name in the list of aims (`P1.64k`), or with `W` for workloads without one."""

    key: str
    title: str
    unit: str
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A figure as it came out. `spread` is (max - min) / median of tailrace's samples; `ratio` is to `Target.against`,
    or to Kafka where there is no target."""

    figure: Figure
    medians: dict[str, float]
    spread: float | None
    ratio: float | None
    verdict: Verdict


@dataclass(slots=True)
class Results:
    """Filled by scenarios as they go; `samples[figure key][system]` is in order of rounds."""

    figures: dict[str, Figure] = field(default_factory=dict)
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What could not be measured, and why."""

    def declare(self, figures: Iterable[Figure]) -> None:
        for figure in figures:
            self.figures[figure.key] = figure

    def add(self, key: str, system: str, value: float | None) -> None:
        """None: this system has no such figure."""
        if key not in self.figures:
            raise KeyError(f"figure {key} was not declared")
        if value is not None:
            self.samples.setdefault(key, {}).setdefault(system, []).append(value)

    def median(self, key: str, system: str) -> float | None:
        samples = self.samples.get(key, {}).get(system)
        return statistics.median(samples) if samples else None

    def rows(self) -> Iterator[Row]:
        """Of all figures of which there is a sample, in the order of their declaration."""
        for key, figure in self.figures.items():
            if key in self.samples:
                yield self._row(figure)

    def _row(self, figure: Figure) -> Row:
        samples = self.samples[figure.key]
        medians = {system: statistics.median(values) for system, values in samples.items()}
        ours = medians.get(TAILRACE)
        spread = None
        if ours:
            spread = (max(samples[TAILRACE]) - min(samples[TAILRACE])) / ours
        target = figure.target
        base = self._base(figure.key, target.against if target is not None else KAFKA)
        ratio = ours / base if ours is not None and base else None
        verdict = Verdict.UNKNOWN
        if target is not None and ours is not None:
            compared = ours if target.against is None else ratio
            if compared is not None:
                verdict = Verdict.MET if target.is_met_by(compared) else Verdict.MISSED
        return Row(figure, medians, spread, ratio, verdict)

    def _base(self, key: str, against: str | None) -> float | None:
        if against is None:
            against = KAFKA
        system, slash, other = against.partition("/")
        return self.median(other if slash else key, system)
