from __future__ import annotations

from dataclasses import replace

import pytest

from broker.compaction.eligibility import COORDINATOR_DIRTY_SIZE, Cleanable, cleanable
from broker.config.broker_config import BrokerConfig
from broker.config.topic_config import TopicConfig
from s3stream.api import RangeInfo

NOW_MS = 1_700_000_000_000
RANGES = [RangeInfo(10 * i, 10 * i + 10, 100, NOW_MS - 1000 + i) for i in range(10)]
"""100 offsets, 1000 bytes, the newest record of each range 1000 to 991 ms old."""
OLD = {"segment.ms": "1"}


def look(
    configs: dict[str, str],
    *,
    compacted_offset: int = 0,
    last_stable_offset: int = 100,
    log_size: int = 1000,
    is_coordinator: bool = False,
    first_dirty_timestamp: int | None = None,
    scale: int = 1,
) -> Cleanable | None:
    return cleanable(
        [replace(each, size=each.size * scale) for each in RANGES],
        compacted_offset,
        0,
        last_stable_offset,
        log_size,
        TopicConfig.resolve(configs, BrokerConfig()),
        NOW_MS,
        is_coordinator=is_coordinator,
        first_dirty_timestamp=first_dirty_timestamp,
    )


def end_of(found: Cleanable | None) -> int | None:
    return None if found is None else found.end_offset


@pytest.mark.parametrize(
    ("configs", "end_offset"),
    [
        ({}, None),
        (OLD, 100),
        ({"segment.ms": "995"}, 60),
        ({"max.compaction.lag.ms": "995"}, 60),
        ({"segment.ms": "1", "min.compaction.lag.ms": "995"}, 60),
    ],
)
def test_the_active_end_is_what_is_young(configs: dict[str, str], end_offset: int | None) -> None:
    assert end_of(look(configs)) == end_offset


def test_the_active_end_is_not_more_than_a_segment() -> None:
    configs = {"segment.bytes": str(1 << 20)}
    assert end_of(look(configs, log_size=1000)) is None
    assert end_of(look(configs, log_size=(1 << 20) + 300)) == 30


def test_nothing_at_or_above_the_last_stable_offset_is_compacted() -> None:
    assert end_of(look(OLD, last_stable_offset=49)) == 40
    assert end_of(look(OLD, last_stable_offset=9)) is None


def test_a_log_is_due_when_enough_of_it_is_dirty() -> None:
    for compacted_offset, dirty_size, is_due in ((0, 1000, True), (50, 500, False), (40, 600, True), (90, 100, False)):
        found = look(OLD, compacted_offset=compacted_offset)
        assert found is not None
        assert (found.dirty_offset, found.dirty_size, found.is_due) == (compacted_offset, dirty_size, is_due)
    assert look(OLD, compacted_offset=100) is None
    inside = look(OLD, compacted_offset=95)
    assert inside is not None
    assert (inside.dirty_offset, inside.clean_size, inside.dirty_size) == (95, 900, 100)


def test_a_record_that_waited_too_long_makes_its_log_due() -> None:
    configs = {"max.compaction.lag.ms": "500"}
    for age_ms, is_due in ((500, False), (501, True)):
        found = look(configs, compacted_offset=90, first_dirty_timestamp=NOW_MS - age_ms)
        assert found is not None
        assert found.is_due is is_due


def test_the_log_of_a_coordinator_has_no_active_end_but_a_least_size() -> None:
    found = look({}, is_coordinator=True)
    assert found is not None
    assert (found.end_offset, found.is_due) == (100, False)
    found = look({}, is_coordinator=True, scale=COORDINATOR_DIRTY_SIZE // 1000 + 1)
    assert found is not None
    assert found.is_due
