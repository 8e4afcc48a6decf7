"""Promises, and what a run leaves behind."""

from __future__ import annotations

import json
import math
from xml.etree import ElementTree

import pytest

from bench.transaction_history import Place
from drills.picture import draw
from drills.promise import Promise, all_kept, quantity
from drills.report import Report, worst_of
from drills.timeline import Phase, Timeline, Traffic


def report(*, gap_s: float = 0.4, passed: bool = True) -> Report:
    timeline = Timeline()
    for tick in range(100):
        if not 5.0 < tick / 10 < 5.0 + gap_s:
            timeline.acknowledged(tick / 10, Place("t", 0), 12)
            timeline.was_read(tick / 10, 0.01)
    timeline.event(5.0, 'broker 1 is killed <"&>')
    timeline.phases += [Phase("before", 1.0, 5.0), Phase("killed", 5.0, 9.9, Traffic(1_000_000, None))]
    promises = [Promise("longest gap", gap_s, 1.0), Promise("freshness", math.nan, 1.0)]
    return Report("leader-kill", "file log", 7, 10.0, timeline, promises, ["lost: x"] * 60, [], "", passed)


def test_a_promise_is_kept_up_to_its_limit_and_never_without_a_figure() -> None:
    assert Promise("", 0.3, 0.3).kept
    assert not Promise("", 0.31, 0.3).kept
    assert not Promise("", math.nan, 0.3).kept
    assert not all_kept([])
    assert str(Promise("gap", 0.31, 0.3)) == "BROKEN: gap: 0.31 s (at most 0.30 s)"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.314, "s", "0.31 s"), (2_500_000, "bytes", "2.5 MB"), (0, "", "0"), (7.4, "ms", "7 ms"), (None, "bytes", "-")],
)
def test_quantities_read_well(value: float | None, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_the_json_is_valid_and_bounded() -> None:
    told = json.loads(json.dumps(report().to_json(), allow_nan=False))
    assert told["longest_gap_s"] == 0.4
    assert told["phases"][1]["longest_gap_partition"] == "t-0"
    assert told["phases"][1]["store_written"] == 1_000_000
    assert told["promises"][1]["measured"] is None
    assert (told["violation_count"], len(told["violations"])) == (60, 50)
    assert sum(told["acks_per_s"]) / 10 == told["acknowledged"]


def test_the_worst_run_is_one_that_failed_else_the_one_with_the_longest_gap() -> None:
    fine, slow, failed = report(gap_s=0.3), report(gap_s=0.9), report(gap_s=0.2, passed=False)
    assert worst_of([fine, slow]) is slow
    assert worst_of([fine, failed, slow]) is failed


def test_the_picture_is_one_well_formed_file_with_everything_in_it() -> None:
    picture = draw(report())
    texts = [element.text or "" for element in ElementTree.fromstring(picture).iter()]
    assert 'broker 1 is killed <"&>' in "".join(texts)
    assert any("t-0 without an acknowledgement for 0.40 s" in text for text in texts)
    assert "href" not in picture
