"""What of a log may be compacted, and whether it is time. Pure.

A log here has no segment files; what stands for a segment is a committed range (the part of the log in one object). The
**active** end of the log is left alone, as Kafka leaves the active segment alone: a range with less than
`segment.bytes` of the log behind it, as long as it is younger than `segment.ms` (or than `max.compaction.lag.ms`, if
that is less). So these configs say how soon records can be compacted, as in Kafka; but no later append is needed for
it.

Logs of coordinators are compacted as soon as they are worth it: their replay is what a take-over waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from broker.config.topic_config import TopicConfig
from s3stream.api import RangeInfo

COORDINATOR_DIRTY_SIZE = 1 << 20
"""Dirty bytes of a coordinator's log from which compaction is worth it, whatever the ratio says."""
_LONG_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Cleanable:
    """[dirty offset, end offset) may be compacted; `ratio` is its share of the bytes up to there. `is_due`: now."""

    dirty_offset: int
    end_offset: int
    clean_size: int
    dirty_size: int
    is_due: bool

    @property
    def ratio(self) -> float:
        return self.dirty_size / max(1, self.clean_size + self.dirty_size)


def cleanable(
    ranges: Sequence[RangeInfo],
    compacted_offset: int,
    log_start_offset: int,
    last_stable_offset: int,
    log_size: int,
    config: TopicConfig,
    now_ms: int,
    *,
    is_coordinator: bool = False,
    first_dirty_timestamp: int | None = None,
) -> Cleanable | None:
    """None if nothing may be compacted. `log_size`: bytes of all of the log; `first_dirty_timestamp`: that of the first
    dirty batch, if `max.compaction.lag.ms` depends on it."""
    dirty_offset = max(compacted_offset, log_start_offset)
    active_ms = min(config.segment_ms, config.max_compaction_lag_ms)
    clean_size = dirty_size = passed = 0
    end_offset = dirty_offset
    for each in ranges:
        passed += each.size
        if each.end_offset <= dirty_offset:
            clean_size += each.size
            continue
        is_closed = is_coordinator or log_size - passed >= config.segment_bytes
        is_closed = is_closed or now_ms - each.max_timestamp >= active_ms
        lags = config.min_compaction_lag_ms > 0 and each.max_timestamp > now_ms - config.min_compaction_lag_ms
        if each.end_offset > last_stable_offset or not is_closed or lags:
            break
        dirty_size += each.size
        end_offset = each.end_offset
    if end_offset <= dirty_offset:
        return None
    found = Cleanable(dirty_offset, end_offset, clean_size, dirty_size, is_due=False)
    overdue = (
        config.max_compaction_lag_ms < _LONG_MAX
        and first_dirty_timestamp is not None
        and now_ms - first_dirty_timestamp > config.max_compaction_lag_ms
    )
    worth = found.ratio > config.min_cleanable_dirty_ratio
    if is_coordinator:
        worth = worth and dirty_size >= COORDINATOR_DIRTY_SIZE
    return Cleanable(dirty_offset, end_offset, clean_size, dirty_size, is_due=overdue or worth)
