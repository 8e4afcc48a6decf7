"""Mutants of every request that is served: each is answered or ends its connection, and no handler fails on one."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from broker import handlers
from broker.app import Ending, RunningBroker, running_broker
from broker.settings import load_settings
from protocol.api_keys import ApiKey
from protocol.codec import encode_request
from protocol.errors import ErrorCode
from protocol.messages.create_topics import CreatableTopic, CreatableTopicConfig
from protocol.messages.find_coordinator import FindCoordinatorRequest
from protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from tests.broker.hostile.mutation import COMPACTED, TOPIC, requests
from tests.broker.server.harness import RawClient

SEED = int(os.environ.get("TAILRACE_FUZZ_SEED", "20240"))
PER_VERSION = int(os.environ.get("TAILRACE_FUZZ_COUNT", "6"))
ANSWER_S = 0.01
"""How long a mutant is waited for before its input ends; many are long polls."""


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[RunningBroker]:
    flags = {
        "listen": "127.0.0.1:0",
        "data_dir": tmp_path / "data",
        "objects": "memory://",
        "wal": f"memory://{tmp_path}",
    }
    async with running_broker(load_settings(flags, {}, None), Ending()) as running:
        client = RawClient(*await asyncio.open_connection(*running.address))
        topics = [
            CreatableTopic(name=TOPIC, num_partitions=2, replication_factor=1),
            CreatableTopic(
                name=COMPACTED,
                num_partitions=1,
                replication_factor=1,
                configs=[CreatableTopicConfig(name="cleanup.policy", value="compact")],
            ),
        ]
        client.send(ApiKey.CREATE_TOPICS, 1, topics=topics, timeout_ms=10_000)
        _, created = await client.receive(ApiKey.CREATE_TOPICS)
        assert [each.error_code for each in created.topics] == [0, 0]
        client.close()
        yield running


async def answer(broker: RunningBroker, frame: bytes) -> bytes:
    """What comes back: an answer, or nothing if the request may wait or the broker closes.

    The end of input closes whatever still waits; a connection that stays open then is a hang.
    """
    reader, writer = await asyncio.open_connection(*broker.address)
    try:
        writer.write(frame)
        first = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                first = await reader.read(65_536)
        writer.write_eof()
        async with asyncio.timeout(10):
            return first + await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_commit_may_ask_to_be_kept_for_ever(broker: RunningBroker) -> None:
    partition = OffsetCommitRequestPartition(partition_index=0, committed_offset=1)
    topics = [OffsetCommitRequestTopic(name=TOPIC, partitions=[partition])]
    request = OffsetCommitRequest(group_id="g", retention_time_ms=2**63 - 1, topics=topics)
    client = RawClient(*await asyncio.open_connection(*broker.address))
    codes = [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]
    async with asyncio.timeout(10):
        while codes[0] in (ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.NOT_COORDINATOR):
            client.writer.write(encode_request(ApiKey.FIND_COORDINATOR, 2, 1, "test", FindCoordinatorRequest(key="g")))
            await client.receive(ApiKey.FIND_COORDINATOR, 2)
            client.writer.write(encode_request(ApiKey.OFFSET_COMMIT, 3, 1, "test", request))
            _, answered = await client.receive(ApiKey.OFFSET_COMMIT, 3)
            codes = [each.error_code for each in answered.topics[0].partitions]
    assert codes == [0]
    client.close()


async def test_no_mutant_of_any_request_makes_a_handler_fail(broker: RunningBroker) -> None:
    rng = random.Random(SEED)
    with structlog.testing.capture_logs() as logged:
        for module in handlers.MODULES:
            for version in range(module.MIN_VERSION, module.MAX_VERSION + 1):
                for frame in requests(module.API_KEY, version, rng, PER_VERSION):
                    await answer(broker, frame)
                    failed = [entry for entry in logged if entry["log_level"] in ("error", "critical")]
                    assert not failed, (module.API_KEY.name, version, frame.hex(), failed)
        client = RawClient(*await asyncio.open_connection(*broker.address))
        client.send(ApiKey.METADATA, 7, 5)
        assert (await client.receive(ApiKey.METADATA, 5))[0] == 7
        client.close()
