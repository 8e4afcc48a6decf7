"""Two runs of the benchmark, compared: is a ratio that has a target the same in both, within 15 %?

Pure, of what `report.as_json` wrote. Other ratios are shown and do not count: they have no target because they say
little by themselves, or because the target is tailrace's figure alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.report import number

TOLERANCE = 0.15
_SAME = ("cores", "system", "kafka", "quick")


@dataclass(frozen=True, slots=True)
class Comparison:
    text: str
    agrees: bool


class NotComparable(Exception):
    """One of the two is no result of a run, or they have nothing in common."""


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> Comparison:
    """Raises NotComparable."""
    try:
        return _compare(first, second)
    except (KeyError, TypeError) as error:
        raise NotComparable(f"not written by --json of this benchmark: {error}") from None


def _compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> Comparison:
    ours, theirs = ({each["key"]: each for each in run["figures"]} for run in (first, second))
    lines, apart = [], []
    for key in dict.fromkeys([*ours, *theirs]):
        a, b = (run[key]["ratio"] if key in run else None for run in (ours, theirs))
        counts = (ours.get(key) or theirs[key])["target_is_ratio"]
        if a is None and b is None:
            continue
        difference = abs(a - b) / min(a, b) if a and b else None
        agrees = difference is not None and difference <= TOLERANCE
        if counts and not agrees:
            apart.append(key)
        verdict = "" if not counts else "same" if agrees else "DIFFERS"
        told = f"{difference:.0%}" if difference is not None else "-"
        lines.append(f"{key:14} {number(a):>8} {number(b):>8} {told:>6} {verdict}".rstrip())
    if not any(each["target_is_ratio"] for each in (*ours.values(), *theirs.values())):
        raise NotComparable("no ratio that has a target was measured")
    lines += [
        f"note: {name} is {first['machine'][name]} and {second['machine'][name]}"
        for name in _SAME
        if first["machine"][name] != second["machine"][name]
    ]
    lines.append(
        f"{len(apart)} ratios with a target differ by more than {TOLERANCE:.0%}: {', '.join(apart)}"
        if apart
        else f"all ratios with a target are within {TOLERANCE:.0%}"
    )
    return Comparison("\n".join([f"{'ratio':14} {'first':>8} {'second':>8} {'apart':>6}", *lines]), not apart)
