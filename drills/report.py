"""What a run leaves behind: the JSON that is written, and what the command prints in the end. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drills.promise import Promise
from drills.timeline import Phase, Timeline

STEP_S = 0.1
"""Width of the steps in `acks_per_s` and `worst_age_s`."""
GAP_MIN_S = 0.1
"""Gaps shorter than this are not listed."""
LISTED_MAX = 50
"""Violations and errors that are told one by one."""


@dataclass(frozen=True, slots=True)
class Report:
    """`failure`: why the drill could not go on; then it did not pass, whatever was measured."""

    drill: str
    setup: str
    seed: int
    seconds: float
    timeline: Timeline
    promises: Sequence[Promise]
    violations: Sequence[str]
    errors: Sequence[str]
    failure: str
    passed: bool

    @property
    def longest_gap_s(self) -> float:
        """Within the phases: what comes after them is nobody's to wait for."""
        timeline = self.timeline
        return max(
            (timeline.longest_gap(phase.start, phase.end).length_s for phase in timeline.phases if _ended(phase)),
            default=0.0,
        )

    def to_json(self) -> dict[str, Any]:
        timeline = self.timeline
        return {
            "drill": self.drill,
            "setup": self.setup,
            "seed": self.seed,
            "passed": self.passed,
            "failure": self.failure or None,
            "seconds": round(self.seconds, 3),
            "acknowledged": timeline.ack_count(),
            "longest_gap_s": round(self.longest_gap_s, 3),
            "promises": [
                {
                    "text": promise.text,
                    "measured": _number(promise.measured),
                    "at_most": promise.at_most,
                    "unit": promise.unit,
                    "kept": promise.kept,
                }
                for promise in self.promises
            ],
            "phases": [self._phase(phase) for phase in timeline.phases],
            "events": [{"at": round(event.at, 3), "text": event.text} for event in timeline.events],
            "gaps": [
                {"start": round(gap.start, 3), "end": round(gap.end, 3), "partition": str(gap.place)}
                for gap in timeline.gaps(GAP_MIN_S, self.last_ack)
            ],
            "violation_count": len(self.violations),
            "violations": list(self.violations[:LISTED_MAX]),
            "error_count": len(self.errors),
            "errors": list(self.errors[:LISTED_MAX]),
            "step_s": STEP_S,
            "acks_per_s": [round(rate) for rate in timeline.ack_rates(self.seconds, STEP_S)],
            "worst_age_s": [round(age, 3) for age in timeline.worst_ages(self.seconds, STEP_S)],
        }

    @property
    def last_ack(self) -> float:
        return max((phase.end for phase in self.timeline.phases if _ended(phase)), default=self.seconds)

    def _phase(self, phase: Phase) -> dict[str, Any]:
        end = phase.end if _ended(phase) else self.seconds
        gap = self.timeline.longest_gap(phase.start, end)
        freshness = self.timeline.freshness(phase.start, end)
        return {
            "name": phase.name,
            "start": round(phase.start, 3),
            "end": round(end, 3),
            "acknowledged": self.timeline.ack_count(phase.start, end),
            "longest_gap_s": round(gap.length_s, 3),
            "longest_gap_at": round(gap.start, 3),
            "longest_gap_partition": str(gap.place) if gap.place is not None else None,
            "freshness_s": {name: _number(value) for name, value in freshness._asdict().items()},
            "store_written": phase.traffic.written,
            "store_read": phase.traffic.read,
        }


def worst_of(reports: Sequence[Report]) -> Report:
    """One that did not pass before those that did; among them the one with the longest gap."""
    return max(reports, key=lambda report: (not report.passed, report.longest_gap_s))


def _ended(phase: Phase) -> bool:
    return math.isfinite(phase.end)


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return round(value, 4) if math.isfinite(value) else None
