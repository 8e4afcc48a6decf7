"""A regression guard: what a produced batch costs the broker, beside the stub that acknowledges without storing.

Ratios of CPU within one run, best of three rounds, with bounds so wide that a busy machine stays within them and a path
that has become twice as expensive does not. Figures for people come from `make bench`.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.broker_process import BrokerProcess
from bench.process_stats import cpu_seconds
from bench.raw_load import RawLoad, produce_frame
from bench.stub_process import PARTITIONS, StubProcess
from protocol.records import Record, build_batch

pytestmark = pytest.mark.integration

ROUNDS = 3
SETTLE_S = 0.3


def frame_of(value_size: int, records: int) -> bytes:
    now_ms = time.time_ns() // 1_000_000
    batch = bytes(build_batch([Record(i, now_ms, None, b"x" * value_size) for i in range(records)]))
    return produce_frame("speed", [batch] * PARTITIONS)


def cost(load: RawLoad, pid: int, frame: bytes, count: int) -> float:
    """CPU seconds for so many requests, what happens behind them within a moment included."""
    before = cpu_seconds(pid)
    load.run(frame, count)
    time.sleep(SETTLE_S)
    return cpu_seconds(pid) - before


@pytest.mark.parametrize(
    ("value_size", "records", "count", "bound"),
    [pytest.param(1000, 16, 2000, 10.0, id="16 KiB batches"), pytest.param(100, 1, 5000, 7.5, id="singles")],
)
def test_a_batch_costs_the_broker_no_multiple_of_what_it_costs_the_stub(
    tmp_path: Path, value_size: int, records: int, count: int, bound: float
) -> None:
    frame = frame_of(value_size, records)
    ratios = []
    with (
        StubProcess() as stub,
        BrokerProcess(tmp_path / "data", env={"TAILRACE_BROKER_NUM_PARTITIONS": str(PARTITIONS)}) as broker,
    ):
        systems = [(RawLoad(broker.address), broker.pid), (RawLoad(stub.address), stub.pid)]
        for load, pid in systems:
            load.make_topic("speed", PARTITIONS)
            cost(load, pid, frame, count // 3)
        for _ in range(ROUNDS):
            ours, least = (cost(load, pid, frame, count) for load, pid in systems)
            ratios.append(ours / least)
        for load, _ in systems:
            load.close()
    print("CPU of the broker by that of the stub:", ", ".join(f"{ratio:.2f}" for ratio in ratios))
    assert min(ratios) < bound, ratios
