"""The process that passes run in: the same results, an end when nobody needs it, no end that is not noticed."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from broker.compaction.cleaning import Cleaning, CleaningInput
from broker.compaction.worker import CleaningProcess, WorkerDied
from protocol.errors import InvalidBatch
from tests.broker.compaction.logs import MINUTE_MS, Log


def a_log() -> Log:
    log = Log()
    log.produce([(b"a", b"1"), (b"b", b"1"), (b"a", None)])
    log.produce([(b"b", b"2")], producer_id=7, transactional=True)
    log.end(7, committed=False)
    return log


async def test_a_pass_in_the_process_is_a_pass() -> None:
    log = a_log()
    given = CleaningInput(0, log.end_offset, log.now_ms, MINUTE_MS, 1 << 20, log.aborted, {})
    here = Cleaning(given)
    process = CleaningProcess()
    try:
        await process.begin(given)
        sliced = [(*each[:3], memoryview(each[3])) for each in log.batches]
        assert await process.index(sliced) is here.index(log.batches)
        assert await process.filter(log.batches) == here.filter(log.batches)
        assert await process.seal() == here.seal()
        assert await process.counts() == (here.record_count, here.kept_count, here.next_horizon_ms)
        with pytest.raises(InvalidBatch):
            await process.filter([(0, 1, 0, log.batches[0][3][:-1])])
    finally:
        process.close()


async def test_a_process_that_dies_fails_its_pass_and_is_started_again() -> None:
    log = a_log()
    given = CleaningInput(0, log.end_offset, log.now_ms, MINUTE_MS, 1 << 20, log.aborted, {})
    process = CleaningProcess()
    try:
        await process.begin(given)
        assert process._process is not None
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            await process.index(log.batches)
        await process.begin(given)
        assert await process.index(log.batches)
    finally:
        process.close()


async def test_without_work_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.compaction.worker.IDLE_S", 0.0)
    log = a_log()
    process = CleaningProcess()
    try:
        await process.begin(CleaningInput(0, log.end_offset, log.now_ms, MINUTE_MS, 1 << 20, [], {}))
        process.rest()
        await asyncio.sleep(0.01)
        assert not process.is_running
    finally:
        process.close()
