"""What a simulated day takes for bounded, and what not."""

from __future__ import annotations

import pytest

from s3stream.catalog.api import NewObject, StreamRange
from s3stream.objectstore.memory import MemoryStore
from tests.s3stream.sim.catalog import MemoryCatalog
from tests.s3stream.sim.day_bounds import Bounds
from tests.s3stream.sim.day_broker import LIMITS, SETTINGS

LONG = LIMITS.run_count_max


async def bounds_of(count: int) -> tuple[Bounds, MemoryCatalog]:
    """A stream of so many small objects, side by side."""
    catalog = MemoryCatalog()
    [stream_id] = catalog.create_streams(1)
    epoch = catalog.register(1)
    [info] = await catalog.open_streams(1, epoch, [stream_id])
    added = [
        NewObject(object_id, 100, [StreamRange(stream_id, number, number + 1, 50, number)])
        for number, (object_id, _) in enumerate(await catalog.prepare_objects(1, epoch, count))
    ]
    await catalog.commit_objects(1, epoch, added, {stream_id: info.epoch})
    bounds = Bounds(catalog, MemoryStore(), SETTINGS, LIMITS, 1, lambda: 10_000.0)
    bounds._check_live_objects()
    return bounds, catalog


async def test_a_run_may_be_long_for_a_moment() -> None:
    bounds, catalog = await bounds_of(5 * LONG)
    merged = list(catalog.objects.values())[LONG // 2 : 5 * LONG - LONG // 4]
    for entry in merged[1:]:
        entry.state = "retired"
    [first], [last] = merged[0].ranges, merged[-1].ranges
    merged[0].ranges = [StreamRange(first.stream_id, first.start_offset, last.end_offset, 2_000, 1)]
    bounds._check_live_objects()
    assert bounds.run_max == 5 * LONG
    assert bounds.stays_max == LONG // 2 + LONG // 4


async def test_a_run_that_stays_as_it_is_was_lost_sight_of() -> None:
    await bounds_of(LONG - 1)
    bounds, _ = await bounds_of(LONG)
    with pytest.raises(AssertionError, match="side by side"):
        bounds._check_live_objects()
