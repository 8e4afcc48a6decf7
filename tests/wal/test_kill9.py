"""`kill -9` while records are appended: what the process reported durable is there."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import wal

APPENDER = """
import asyncio, os, sys, uvloop, wal

async def main(url, epoch):
    log = await wal.open_wal(url, epoch=epoch, segment_size=1 << 20, size_max=256 << 20)
    def report(position):
        os.write(1, b"%d\\n" % position)
    log.set_listeners(report, lambda error: os._exit(3))
    number = 0
    while True:
        for _ in range(number % 7 + 1):
            log.append([b"%d," % number, bytes([number % 251]) * (number * 37 % 5000)])
            number += 1
        if log.backlog_size > 1 << 20:
            await log.flush()
        if log.end_position - log.durable_position < 1 << 19:
            log.trim(log.durable_position - (8 << 20))
        await asyncio.sleep(0)

uvloop.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.integration
async def test_nothing_reported_durable_is_lost(tmp_path: Path) -> None:
    rng = random.Random(11)
    url = f"file://{tmp_path}/wal"
    last_end = 0
    for epoch in range(1, 6):
        with subprocess.Popen(  # noqa: ASYNC220 (the appender has to be another process)
            [sys.executable, "-c", APPENDER, url, str(epoch)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            durable = 0
            for _ in range(rng.randint(20, 300)):
                durable = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                durable = int(line) if line.endswith(b"\n") else durable
        assert durable > last_end

        log = await wal.fence_wal(url)
        records = [record async for chunk in log.records() for record in chunk]
        assert records[-1].end >= durable
        assert all(a.end == b.position for a, b in pairwise(records))
        first = int(bytes(records[0].data).split(b",", 1)[0])
        for number, record in enumerate(records, first):
            assert bytes(record.data) == b"%d," % number + bytes([number % 251]) * (number * 37 % 5000)
        last_end = records[-1].end
        await log.discard()
        await log.close()
