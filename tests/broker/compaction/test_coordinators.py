"""A coordinator that loads from a compacted log is in the state that the whole log would have given it."""

from __future__ import annotations

import random
from collections import defaultdict

from broker.coordinator.partition_log import _read
from broker.coordinator.replay import LogReplay
from protocol.records import BatchHeader
from tests.broker.compaction.logs import Log, grow


def loaded(log: Log) -> dict[bytes, list[tuple[int, bytes]]]:
    """Key -> values with the producer id of the open transaction that they wait for, in the order in which they
    count."""
    replay = LogReplay()
    for *_, data in log.batches:
        if (batch := _read(BatchHeader.read(data), data, 0)) is not None:
            replay.add(batch)
    found: defaultdict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
    for producer_id, key, value in replay.records():
        found[key].append((producer_id, value))
    return dict(found)


def check(seed: int) -> None:
    rng = random.Random(seed)
    log, compacted_offset = Log(), 0
    for _ in range(8):
        # coordinators delete outside of transactions only
        grow(log, rng, rng.randint(1, 15), transactional_tombstones=False)
        before = loaded(log)
        ends = [each[0] + each[1] for each in log.batches if each[0] + each[1] <= log.last_stable_offset]
        end_offset = rng.choice(ends or [0])
        if end_offset > compacted_offset:
            compacted_offset = log.compact(
                compacted_offset,
                end_offset,
                map_size_max=rng.choice((1, 600, 1 << 20)),
                rng=rng,
                delete_retention_ms=rng.choice((0, 10_000)),
            )
        assert loaded(log) == before
        log.now_ms += rng.choice((0, 20_000))


def test_loading_after_compaction_gives_the_same_state() -> None:
    for seed in range(150):
        try:
            check(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
