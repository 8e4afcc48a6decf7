"""What a drill promises, and whether it was kept. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """`measured` and `at_most` are of one unit ("s", "bytes", "" for a count)."""

    text: str
    measured: float
    at_most: float
    unit: str = "s"

    @property
    def kept(self) -> bool:
        """A figure that could not be had (NaN) keeps nothing."""
        return self.measured <= self.at_most

    def __str__(self) -> str:
        word = "kept" if self.kept else "BROKEN"
        return (
            f"{word}: {self.text}: {quantity(self.measured, self.unit)} (at most {quantity(self.at_most, self.unit)})"
        )


def quantity(value: float | None, unit: str) -> str:
    """As a reader wants it: 0.31 s, 12.4 MB, 3."""
    if value is None or math.isnan(value):
        return "-"
    if unit == "bytes":
        for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if value >= size:
                return f"{value / size:.1f} {name}"
        return f"{value:.0f} B"
    return f"{value:.2f} s" if unit == "s" else f"{value:.0f}{f' {unit}' if unit else ''}"


def all_kept(promises: Sequence[Promise]) -> bool:
    """A drill without promises proves nothing."""
    return bool(promises) and all(promise.kept for promise in promises)
