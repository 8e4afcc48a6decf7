from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.broker_process import BrokerProcess
from bench.raw_load import RawLoad, produce_frame
from bench.store_requests import StoreMeter
from protocol.records import Record, build_batch

pytestmark = pytest.mark.integration
QUICK_UPLOADS = {"TAILRACE_STORAGE_UPLOAD_INTERVAL_MS": "20"}
TIMEOUT_S = 20.0


def test_requests_to_the_store_are_counted_by_kind_from_a_moment_on(tmp_path: Path) -> None:
    batch = bytes(build_batch([Record(0, time.time_ns() // 1_000_000, None, b"x" * 1000)]))
    with BrokerProcess(tmp_path / "data", env=QUICK_UPLOADS, configs={"num.partitions": "1"}) as broker:
        load = RawLoad(broker.address)
        load.make_topic("t", 1)
        meter = StoreMeter(broker.address)
        load.run(produce_frame("t", [batch]), 5)
        load.close()
        deadline = time.monotonic() + TIMEOUT_S
        while not (asked := meter.read()).puts:
            assert time.monotonic() < deadline, "nothing is uploaded"
            time.sleep(0.02)
        assert asked.all >= asked.puts
        assert asked.price > asked.puts * 0.0049 / 1000
        later = StoreMeter(broker.address).read()
        assert later.all < asked.all
