"""Figures of a benchmark run: samples by system, medians and spread, ratios, and whether a target is met.

Pure. A **figure** is one thing that is measured ("records per second at 64 KiB"), a **sample** its value for one system
in one round. Systems alternate within a run, and only ratios of their medians within it are compared with targets.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

TAILRACE, KAFKA, STUB = "tailrace", "kafka", "stub"


def quantile(ascending: Sequence[float], share: float) -> float:
    """Of values in ascending order, at least one."""
    return ascending[min(int(share * len(ascending)), len(ascending) - 1)]


class Verdict(Enum):
    MET = "met"
    MISSED = "NOT MET"
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
    """A figure as it came out. A system's spread is (max - min) / median of its samples, if there are several;
    `ratio` is to `Target.against`, or to Kafka where there is no such target."""

    figure: Figure
    medians: dict[str, float]
    spreads: dict[str, float]
    ratio: float | None
    verdict: Verdict

    @property
    def compared(self) -> float | None:
        """What the target is about: the ratio, or tailrace's median."""
        target = self.figure.target
        return self.ratio if target is not None and target.against is not None else self.medians.get(TAILRACE)


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

    def unmeasured(self) -> list[Figure]:
        """Declared figures with a target of which nothing can be said."""
        known = {row.figure.key for row in self.rows() if row.verdict is not Verdict.UNKNOWN}
        return [figure for key, figure in self.figures.items() if figure.target is not None and key not in known]

    def _row(self, figure: Figure) -> Row:
        samples = self.samples[figure.key]
        medians = {system: statistics.median(values) for system, values in samples.items()}
        spreads = {
            system: (max(values) - min(values)) / medians[system]
            for system, values in samples.items()
            if medians[system] and len(values) > 1
        }
        ours, target = medians.get(TAILRACE), figure.target
        base = self._base(figure.key, target.against if target is not None else KAFKA)
        ratio = ours / base if ours is not None and base else None
        row = Row(figure, medians, spreads, ratio, Verdict.UNKNOWN)
        if target is None or row.compared is None:
            return row
        return replace(row, verdict=Verdict.MET if target.is_met_by(row.compared) else Verdict.MISSED)

    def _base(self, key: str, against: str | None) -> float | None:
        if against is None:
            against = KAFKA
        system, slash, other = against.partition("/")
        return self.median(other if slash else key, system)
