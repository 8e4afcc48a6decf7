"""Hours of appends, retention, compaction, faults and brokers that come and go keep what is promised.

Whole days by hand: `python -m tests.s3stream.sim --hours 24 --seed 1`.
"""

from __future__ import annotations

from tests.s3stream.sim.day import run_day


def test_every_read_equals_the_model_and_what_is_kept_stays_bounded() -> None:
    day = run_day(seed=4, hours=1.5)
    assert day.counts["passes by key"] > 0
    assert day.counts["trims"] > 0
    assert day.counts["streams moved"] > 0
    assert day.bounds.live_max > 0
