"""What happened in a drill, and when: events, phases, acknowledgements, and how old records were when they were read.

Pure: times are seconds since the drill began and come in as arguments. A **gap** is the time between two
acknowledgements of one partition that follow each other; it belongs to every phase that it touches, with its whole
length, so that one that begins just before a fault counts in full. Where nothing is acknowledged any more, it goes on
to the end of what is looked at. The **freshness** of a record is how old it was when a consumer had it: the time from
when the application gave it to the producer, waiting for a broker included.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from bench.figures import quantile
from bench.transaction_history import Place


class Event(NamedTuple):
    at: float
    text: str


class Gap(NamedTuple):
    """`place` had no acknowledgement from `start` to `end`."""

    start: float
    end: float
    place: Place | None

    @property
    def length_s(self) -> float:
        return self.end - self.start


class Freshness(NamedTuple):
    """Seconds; NaN where nothing was read."""

    median: float
    p99: float
    worst: float


class Traffic(NamedTuple):
    """Bytes that went to the object store and came from it; None where that is not counted."""

    written: int | None = None
    read: int | None = None


@dataclass(slots=True)
class Phase:
    """A stretch of the drill; `end` is infinite as long as it lasts."""

    name: str
    start: float
    end: float = math.inf
    traffic: Traffic = field(default_factory=Traffic)


NO_GAP = Gap(0.0, 0.0, None)


class Timeline:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.phases: list[Phase] = []
        self._acks: dict[Place, list[float]] = defaultdict(list)
        self._ack_counts: list[tuple[float, int]] = []
        self._reads: list[tuple[float, float]] = []

    def event(self, at: float, text: str) -> None:
        self.events.append(Event(at, text))

    def acknowledged(self, at: float, place: Place, count: int) -> None:
        """Times may not go back."""
        self._acks[place].append(at)
        self._ack_counts.append((at, count))

    def was_read(self, at: float, age_s: float) -> None:
        self._reads.append((at, age_s))

    def ack_count(self, start: float = 0.0, end: float = math.inf) -> int:
        """Records acknowledged in [start, end)."""
        return int(sum(count for _, count in _between(self._ack_counts, start, end)))

    def longest_gap(self, start: float, end: float) -> Gap:
        """Of any partition, among those that touch [start, end]. A partition counts from its first acknowledgement."""
        return max(
            (longest_gap(times, start, end, place) for place, times in self._acks.items()),
            key=lambda gap: gap.length_s,
            default=NO_GAP,
        )

    def gaps(self, at_least_s: float, end: float) -> list[Gap]:
        """All gaps of this length and more up to `end`, of all partitions, in the order of their starts."""
        found = [
            Gap(before, after, place)
            for place, times in self._acks.items()
            for before, after in zip(times, [*times[1:], end], strict=True)
            if after - before >= at_least_s
        ]
        return sorted(found)

    def freshness(self, start: float, end: float) -> Freshness:
        """Of what was read in [start, end)."""
        ages = sorted(age for _, age in _between(self._reads, start, end))
        if not ages:
            return Freshness(math.nan, math.nan, math.nan)
        return Freshness(quantile(ages, 0.5), quantile(ages, 0.99), ages[-1])

    def ack_rates(self, end: float, step_s: float) -> list[float]:
        """Records per second that were acknowledged in each step from 0 to `end`."""
        sums = [0.0] * max(math.ceil(end / step_s), 1)
        for at, count in self._ack_counts:
            if at < end:
                sums[int(at / step_s)] += count
        return [count / step_s for count in sums]

    def worst_ages(self, end: float, step_s: float) -> list[float]:
        """The age of the oldest record that was read in each step from 0 to `end`; 0 where none was."""
        worst = [0.0] * max(math.ceil(end / step_s), 1)
        for at, age in self._reads:
            if at < end:
                worst[int(at / step_s)] = max(worst[int(at / step_s)], age)
        return worst


def longest_gap(times: Sequence[float], start: float, end: float, place: Place | None = None) -> Gap:
    """Among the gaps of ascending `times` that touch [start, end]; after the last of them it goes on to `end`."""
    if not times or times[0] > end:
        return NO_GAP
    first = max(bisect_right(times, start) - 1, 0)
    last = bisect_left(times, end)
    touching = list(times[first : last + 1])
    if touching[-1] < end:
        touching.append(end)
    gaps = (Gap(before, after, place) for before, after in pairwise(touching))
    return max(gaps, key=lambda gap: gap.length_s, default=NO_GAP)


def _between(timed: Sequence[tuple[float, float]], start: float, end: float) -> Sequence[tuple[float, float]]:
    return timed[bisect_left(timed, (start, -math.inf)) : bisect_left(timed, (end, -math.inf))]
