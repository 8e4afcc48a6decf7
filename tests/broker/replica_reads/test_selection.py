from __future__ import annotations

from broker.replica_reads.redirects import ENTRIES_MAX, RETURNED_S, STAY_IN_VAIN_S, STAY_S, Redirects
from broker.replica_reads.selection import (
    AHEAD_COUNT_MAX,
    AHEAD_SIZE_MIN,
    SETTLED_MS,
    is_catching_up,
    preferred_replica,
)
from s3stream.api import RangeInfo
from s3stream.catalog.api import BrokerInfo

NOW_MS = 1_700_000_000_000
OLD_MS = NOW_MS - SETTLED_MS
MIB = 1 << 20


def broker(node_id: int, rack: str | None) -> BrokerInfo:
    return BrokerInfo(node_id, node_id, "h", 9092, rack, "file:///wal", True, False)


CLUSTER = [broker(1, "a"), broker(2, "a"), broker(3, "b"), broker(4, "b"), broker(5, None)]


def test_a_consumer_is_sent_to_a_listed_replica_of_its_rack() -> None:
    assert preferred_replica(1, [1, 3], "b", CLUSTER, 0) == 3
    assert preferred_replica(1, [1, 4], "b", CLUSTER, 0) == 4
    assert preferred_replica(1, [1, 2], "b", CLUSTER, 0) is None
    assert preferred_replica(1, [1, 3], "c", CLUSTER, 0) is None
    assert preferred_replica(5, [5, 3], "b", CLUSTER, 0) == 3, "a leader without a rack is in no zone"


def test_partitions_are_spread_over_the_replicas_of_a_rack() -> None:
    assert {preferred_replica(1, [1, 3, 4], "b", CLUSTER, each) for each in range(4)} == {3, 4}


def test_a_consumer_in_the_leaders_rack_stays() -> None:
    assert preferred_replica(1, [1, 2, 3], "a", CLUSTER, 1) is None
    assert preferred_replica(2, [1, 2, 3], "a", CLUSTER, 0) is None


def ranges(*sizes: int, newest: int = OLD_MS) -> list[RangeInfo]:
    """Of ten offsets each, from 100 on."""
    return [RangeInfo(100 + 10 * i, 110 + 10 * i, size, newest) for i, size in enumerate(sizes)]


def test_who_has_old_and_enough_records_before_it_is_catching_up() -> None:
    assert is_catching_up(ranges(MIB), 100, NOW_MS)
    assert is_catching_up(ranges(1, MIB), 109, NOW_MS)
    assert is_catching_up(ranges(2 * MIB), 105, NOW_MS)
    assert not is_catching_up(ranges(2 * MIB), 106, NOW_MS), "the rest of an object counts, not all of it"
    assert not is_catching_up(ranges(MIB - 1), 100, NOW_MS)


def test_who_reads_what_is_new_stays_however_much_there_is() -> None:
    assert not is_catching_up(ranges(100 * MIB, newest=OLD_MS + 1), 100, NOW_MS)


def test_who_is_beyond_or_before_what_is_committed_stays() -> None:
    assert not is_catching_up(ranges(MIB, MIB), 120, NOW_MS)
    assert not is_catching_up(ranges(MIB), 99, NOW_MS)
    assert not is_catching_up([], 0, NOW_MS)


def test_many_small_objects_are_worth_it_and_are_not_all_looked_at() -> None:
    assert AHEAD_COUNT_MAX < AHEAD_SIZE_MIN
    assert not is_catching_up(ranges(*[1] * AHEAD_COUNT_MAX), 100, NOW_MS)
    assert is_catching_up(ranges(*[1] * (AHEAD_COUNT_MAX + 1)), 100, NOW_MS)


READER = (7, bytes(16), 0)


def test_who_comes_back_without_progress_stays_for_a_while() -> None:
    redirects = Redirects()
    assert redirects.may_send(READER, 5, 100.0)
    assert not redirects.may_send(READER, 5, 101.0)
    assert not redirects.may_send(READER, 6, 102.0), "what it reads here now does not count as progress there"
    assert not redirects.may_send(READER, 7, 101.0 + STAY_IN_VAIN_S - 0.1)
    assert redirects.may_send(READER, 8, 101.0 + STAY_IN_VAIN_S)


def test_who_comes_back_soon_stays_for_a_moment_and_others_are_not_concerned() -> None:
    redirects = Redirects()
    assert redirects.may_send(READER, 5, 100.0)
    assert redirects.may_send((8, *READER[1:]), 5, 100.0)
    assert not redirects.may_send(READER, 6, 100.5)
    assert not redirects.may_send(READER, 7, 100.4 + STAY_S)
    assert redirects.may_send(READER, 8, 100.5 + STAY_S)


def test_who_was_away_for_long_is_sent_again_at_once() -> None:
    redirects = Redirects()
    assert redirects.may_send(READER, 5, 100.0)
    assert redirects.may_send(READER, 5, 100.0 + RETURNED_S)


def test_the_memory_of_redirects_is_bounded() -> None:
    redirects = Redirects()
    for connection in range(ENTRIES_MAX + 1):
        assert redirects.may_send((connection, bytes(16), 0), 5, 100.0)
    assert redirects.may_send((0, bytes(16), 0), 5, 100.0)
    assert not redirects.may_send((ENTRIES_MAX, bytes(16), 0), 5, 100.0)
