"""What a pass leaves of a log, case by case and over random histories."""

from __future__ import annotations

import random

import pytest

from broker.compaction.cleaning import Cleaning, CleaningInput, Filtered
from broker.compaction.transactions import AbortedTransaction
from protocol.records import BatchHeader, Codec, parse_end_txn_marker
from protocol.records.rewriting import delete_horizon_ms
from s3stream.object.format import DELTA_MAX
from tests.broker.compaction.logs import MINUTE_MS, START_MS, Log, grow


def offsets(log: Log) -> list[int]:
    return [offset for offset, *_ in log.read()]


def headers(log: Log) -> list[BatchHeader]:
    return [BatchHeader.read(data) for *_, data in log.batches]


def test_the_last_record_of_each_key_stays_at_its_offset() -> None:
    log = Log()
    log.produce([(b"a", b"1"), (b"b", b"1"), (b"a", b"2")])
    log.produce([(b"b", b"2"), (b"c", b"1")])
    before = log.read()
    assert log.compact(0, 5) == 5
    assert log.read() == [before[2], before[3], before[4]]
    first, second = headers(log)
    assert (first.base_offset, first.last_offset, first.record_count) == (0, 2, 1)
    assert (second.base_offset, second.last_offset, second.record_count) == (3, 4, 2)


@pytest.mark.parametrize("codec", list(Codec))
def test_a_batch_keeps_its_codec_and_passes_its_checksum(codec: Codec) -> None:
    log = Log()
    log.produce([(b"a", b"1" * 500), (b"b", b"2" * 500), (b"a", b"3" * 500)], codec=codec)
    before = log.read()
    log.compact(0, 3)
    [header] = headers(log)
    assert header.codec == codec
    assert log.read() == before[1:]


def test_a_tombstone_stays_until_its_horizon_and_is_gone_with_the_pass_after_it() -> None:
    log = Log()
    log.produce([(b"a", b"1"), (b"b", b"1")])
    log.produce([(b"a", None), (b"c", b"1")])
    timestamps = [timestamp for _, timestamp, *_ in log.read()]
    log.compact(0, 4)
    assert offsets(log) == [1, 2, 3]
    assert [delete_horizon_ms(each) for each in headers(log)] == [None, START_MS + MINUTE_MS]
    assert [timestamp for _, timestamp, *_ in log.read()] == timestamps[1:], "the horizon changes no timestamp"
    log.now_ms += MINUTE_MS - 1
    log.compact(4, 4)
    assert offsets(log) == [1, 2, 3]
    log.now_ms += 1
    log.compact(4, 4)
    assert offsets(log) == [1, 3]


def test_records_without_key_go() -> None:
    log = Log()
    log.produce([(None, b"1"), (b"a", b"1")])
    log.compact(0, 2)
    assert offsets(log) == [1]


def test_aborted_records_go_and_their_marker_follows_when_nothing_of_them_is_left() -> None:
    log = Log()
    log.produce([(b"a", b"1")])
    log.produce([(b"a", b"aborted"), (b"b", b"aborted")], producer_id=7, transactional=True)
    log.end(7, committed=False)
    log.last_batches.clear()
    assert log.compact(0, 4) == 4
    assert log.state() == {b"a": b"1"}
    assert [each.is_control for each in headers(log)] == [False, True]
    assert delete_horizon_ms(headers(log)[1]) is None, "batches of the transaction were met"
    log.compact(4, 4)
    assert delete_horizon_ms(headers(log)[1]) == START_MS + MINUTE_MS
    assert parse_end_txn_marker(log.batches[1][3]) is not None
    log.now_ms += MINUTE_MS
    log.compact(4, 4)
    assert [each.record_count for each in headers(log)] == [1, 0], "the last batch of the log's compacted part"
    assert log.aborted == []


def test_a_commit_marker_stays_while_records_of_its_transaction_do() -> None:
    log = Log()
    log.produce([(b"a", b"1")], producer_id=7, transactional=True)
    log.end(7, committed=True)
    log.last_batches.clear()
    for _ in range(3):
        log.compact(0, 2)
        log.now_ms += 2 * MINUTE_MS
    assert len(headers(log)) == 2
    log.produce([(b"a", b"2")])
    for _ in range(3):
        log.compact(2, 3)
        log.now_ms += 2 * MINUTE_MS
    assert [each.base_offset for each in headers(log)] == [2]


def test_the_last_batch_of_a_known_producer_stays_as_a_header() -> None:
    log = Log()
    log.produce([(b"a", b"1"), (b"a", b"2")], producer_id=5)
    log.produce([(b"a", b"3")])
    log.compact(0, 3)
    empty, full = headers(log)
    assert (empty.producer_id, empty.base_sequence, empty.last_offset, empty.record_count) == (5, 0, 1, 0)
    assert full.record_count == 1
    del log.last_batches[5]
    log.compact(3, 3)
    assert [each.base_offset for each in headers(log)] == [2]


def test_what_is_above_the_map_is_not_touched() -> None:
    log = Log()
    log.produce([(b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"c", b"1"), (b"a", b"3")])
    log.produce([(b"a", b"4"), (b"b", b"2")])
    reached = log.compact(0, 7, map_size_max=1)
    assert 0 < reached < 7
    assert set(offsets(log)) >= set(range(reached, 7))
    passes = 1
    while reached < 7:
        reached = log.compact(reached, 7, map_size_max=1)
        passes += 1
    assert passes > 1
    assert offsets(log) == [3, 5, 6]


def pass_over(log: Log, dirty_offset: int, end_offset: int) -> tuple[int, Filtered]:
    """A pass that is given all of the log, because its last object holds more than is to be compacted."""
    aborted = [each for each in log.aborted if each.first_offset < end_offset]
    cleaning = Cleaning(CleaningInput(dirty_offset, end_offset, log.now_ms, MINUTE_MS, 1 << 20, aborted, {}))
    cleaning.index(log.batches)
    return cleaning.begin_filtering(), cleaning.filter(log.batches)


def test_records_that_are_not_decided_yet_take_no_others_away() -> None:
    log = Log()
    log.produce([(b"a", b"1")])
    log.produce([(b"a", b"open")], producer_id=7, transactional=True)
    reached, found = pass_over(log, 0, 1)
    assert reached == 1
    assert found.batches == log.batches


def test_a_marker_above_the_compacted_part_stays_with_its_records() -> None:
    log = Log()
    log.produce([(b"a", b"1")])
    log.produce([(b"a", b"aborted"), (b"b", None)], producer_id=7, transactional=True)
    log.end(7, committed=False)
    for _ in range(2):
        _, found = pass_over(log, 1, 1)
        assert found.batches == log.batches
        assert found.aborts_dropped == []
        log.now_ms += 2 * MINUTE_MS


def test_an_aborted_transaction_without_marker_takes_no_later_ones_with_it() -> None:
    log = Log()
    log.produce([(b"a", b"1")])
    log.aborted.append(AbortedTransaction(7, 0, 0))
    log.produce([(b"b", b"1")], producer_id=7, transactional=True)
    log.end(7, committed=True)
    log.compact(0, 3)
    assert [each.record_count for each in headers(log)] == [1, 1, 1]


def test_however_much_goes_offsets_fit_into_objects() -> None:
    log = Log()
    for step in range(12):
        log.end_offset = step << 29
        log.produce([(b"a", b"1")])
    cleaning = Cleaning(CleaningInput(0, log.end_offset, log.now_ms, 0, 1 << 20, [], {}))
    ends = [each[0] for each in log.batches[1:]] + [log.end_offset]
    batches = [(each[0], end - each[0], *each[2:]) for each, end in zip(log.batches, ends, strict=True)]
    cleaning.index(batches)
    cleaning.begin_filtering()
    covered = 0
    for base_offset, count, _, _ in cleaning.filter(batches).batches:
        assert base_offset + count - covered <= DELTA_MAX
        covered = base_offset + count
    assert covered == log.end_offset


def check(seed: int) -> None:
    rng = random.Random(seed)
    log, compacted_offset = Log(), 0
    for _ in range(6):
        grow(log, rng, rng.randint(1, 12))
        before, state = {each[0]: each for each in log.read()}, log.state()
        ends = [each[0] + each[1] for each in log.batches if each[0] + each[1] <= log.last_stable_offset]
        end_offset = rng.choice(ends or [0])
        map_size_max = rng.choice((1, 500, 1 << 20))
        if end_offset > compacted_offset:
            compacted_offset = log.compact(
                compacted_offset, end_offset, map_size_max=map_size_max, rng=rng, delete_retention_ms=10_000
            )
        after = log.read()
        assert [before[each[0]] for each in after] == after, "what stays is what it was"
        assert log.state() == state
        below = [key for offset, _, key, _ in after if offset < compacted_offset]
        assert len(below) == len(set(below)), "one record for each key"
        last = {key: offset for offset, _, key, _ in before.values()}
        assert {last[key] for key in state} <= {each[0] for each in after}
        assert [each[0] for each in log.batches] == sorted(each[0] for each in log.batches)
        assert not log.batches or log.batches[-1][0] + log.batches[-1][1] == log.end_offset
        log.now_ms += rng.choice((0, 20_000))
    if not log.open:
        log.now_ms += 20_000
        while compacted_offset < log.end_offset:
            compacted_offset = log.compact(compacted_offset, log.end_offset, delete_retention_ms=0)
        log.compact(compacted_offset, log.end_offset)
        assert all(value is not None for *_, value in log.read()), "tombstones go on time"


def test_random_logs_mean_the_same_after_any_number_of_passes() -> None:
    for seed in range(150):
        try:
            check(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
