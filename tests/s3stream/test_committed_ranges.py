"""Which object holds which offsets."""

from __future__ import annotations

import pytest

from s3stream.api import InvariantBroken, RangeInfo
from s3stream.catalog.api import StreamRange
from s3stream.committed_ranges import CommittedRanges, ObjectRef


def ranges_of(count: int) -> CommittedRanges:
    return CommittedRanges.of(
        (StreamRange(1, 10 * i, 10 * i + 10, 5, i), ObjectRef(i, f"key{i}", 100)) for i in reversed(range(count))
    )


def test_every_offset_is_found_in_its_object_and_nothing_beside() -> None:
    ranges = ranges_of(3)
    found = [ranges.find(offset) for offset in (0, 9, 10, 29)]
    assert [each and each.ref.key for each in found] == ["key0", "key0", "key1", "key2"]
    assert ranges.find(-1) is None
    assert ranges.find(30) is None


def test_a_trim_forgets_whole_ranges_only() -> None:
    ranges = ranges_of(3)
    ranges.trim(19)
    assert (len(ranges), ranges.size) == (2, 10)
    ranges.trim(20)
    assert (len(ranges), ranges.size) == (1, 5)
    assert ranges.find(19) is None


def test_a_hole_is_refused() -> None:
    with pytest.raises(InvariantBroken, match="begins at offset 31, but what is committed ends at 30"):
        ranges_of(3).append(StreamRange(1, 31, 32, 1, 0), ObjectRef(9, "key9", 1))


def test_infos_are_made_as_they_are_looked_at() -> None:
    ranges = ranges_of(4)
    infos = ranges.infos()
    assert list(infos) == [RangeInfo(10 * i, 10 * i + 10, 5, i) for i in range(4)]
    assert infos[-1] == RangeInfo(30, 40, 5, 3)
    assert infos[1:3] == list(infos)[1:3]
    assert len(infos) == 4
    assert not ranges_of(0).infos()
