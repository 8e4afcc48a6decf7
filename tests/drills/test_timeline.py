"""Gaps, freshness and rates of a drill's timeline."""

from __future__ import annotations

import math

import pytest

from bench.transaction_history import Place
from drills.timeline import NO_GAP, Timeline, longest_gap

A, B = Place("t", 0), Place("t", 1)


@pytest.mark.parametrize(
    ("times", "start", "end", "expected"),
    [
        ([1.0, 2.0, 5.0, 5.5], 0.0, 6.0, (2.0, 5.0)),
        ([1.0, 2.0, 5.0, 5.5], 3.0, 4.0, (2.0, 5.0)),  # it began before and ends after: with its whole length
        ([1.0, 2.0, 5.0, 5.5], 2.0, 2.5, (2.0, 5.0)),
        ([1.0, 2.0], 1.5, 9.0, (2.0, 9.0)),  # nothing comes any more: up to the end
        ([1.0, 2.0], 5.0, 9.0, (2.0, 9.0)),
        ([1.0, 1.2, 4.0], 0.0, 1.2, (1.0, 1.2)),
    ],
)
def test_a_gap_counts_in_full_wherever_it_is_touched(
    times: list[float], start: float, end: float, expected: tuple[float, float]
) -> None:
    gap = longest_gap(times, start, end)
    assert (gap.start, gap.end) == expected


@pytest.mark.parametrize("times", [[], [7.0, 8.0]])
def test_what_was_not_acknowledged_yet_has_no_gap(times: list[float]) -> None:
    assert longest_gap(times, 1.0, 6.0) == NO_GAP


def test_the_longest_gap_is_that_of_the_worst_partition_not_of_all_together() -> None:
    timeline = Timeline()
    for tick in range(100):
        timeline.acknowledged(tick / 10, A, 1)
        if not 40 <= tick < 60:
            timeline.acknowledged(tick / 10, B, 1)
    gap = timeline.longest_gap(3.0, 9.0)
    assert (gap.place, round(gap.length_s, 3)) == (B, 2.1)
    assert [found.place for found in timeline.gaps(0.5, 9.9)] == [B]


def test_counts_and_rates_are_of_records() -> None:
    timeline = Timeline()
    for at, count in ((0.05, 10), (0.15, 20), (0.18, 5), (0.45, 1)):
        timeline.acknowledged(at, A, count)
    assert timeline.ack_count() == 36
    assert timeline.ack_count(0.15, 0.45) == 25
    assert timeline.ack_rates(0.5, 0.1) == [100.0, 250.0, 0.0, 0.0, 10.0]


def test_freshness_is_of_what_was_read_in_the_phase() -> None:
    timeline = Timeline()
    for number in range(100):
        timeline.was_read(number / 100, 0.5 if number == 70 else 0.01)
    timeline.was_read(2.0, 9.0)
    found = timeline.freshness(0.0, 1.0)
    assert (found.median, found.p99, found.worst) == (0.01, 0.5, 0.5)
    assert timeline.worst_ages(1.0, 0.5) == [0.01, 0.5]
    assert math.isnan(timeline.freshness(5.0, 6.0).worst)
