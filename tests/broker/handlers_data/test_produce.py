from __future__ import annotations

import pytest
from crc32c import crc32c

from broker.handlers import init_producer_id, produce
from broker.request import Deferred, Refused
from protocol.errors import ErrorCode
from protocol.messages.init_producer_id import InitProducerIdRequest
from protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from protocol.records import BatchHeader, decode_records, validate_batches
from s3stream.catalog.api import BrokerInfo
from tests.broker.handlers_data.node import NOW_MS, Node, answer, context, outcome
from tests.broker.partition.batches import GZIP, LZ4, SNAPPY, ZSTD, batch


async def test_is_answered_when_durable_and_not_before() -> None:
    node = Node()
    topic = await node.topic("t")
    result = node.produce("t", batch([b"a", b"b"]))
    assert isinstance(result, Deferred)
    assert not result.done
    node.log(topic).flush()
    part = outcome(result).responses[0].partition_responses[0]
    assert (part.error_code, part.base_offset, part.log_append_time_ms, part.log_start_offset) == (0, 0, -1, 0)


async def test_stamps_offset_and_epoch_and_leaves_the_rest() -> None:
    node = Node()
    topic = await node.topic("t")
    node.appended("t", batch([b"a", b"b", b"c"]))
    sent = batch([b"d"], keys=[b"k"])
    original = bytes(sent)
    assert node.appended("t", sent).base_offset == 3
    stored = node.log(topic).batches[1][2]
    assert stored[16:] == original[16:]
    header = BatchHeader.read(stored)
    assert (header.base_offset, header.partition_leader_epoch) == (3, 5)


async def test_several_partitions_are_answered_together_when_the_last_is_durable() -> None:
    node = Node()
    topic = await node.topic("t", partitions=2)
    request = ProduceRequest(
        acks=-1,
        topic_data=[
            TopicProduceData(
                name="t",
                partition_data=[PartitionProduceData(index=index, records=memoryview(batch())) for index in (0, 1, 7)],
            )
        ],
    )
    result = produce.handle(node.services, context(0, 9), request)
    assert isinstance(result, Deferred)
    node.log(topic, 1).flush()
    assert not result.done
    node.log(topic, 0).flush()
    parts = outcome(result).responses[0].partition_responses
    assert [part.error_code for part in parts] == [0, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]


@pytest.mark.parametrize("acks", [-2, 2])
async def test_other_acks_are_refused(acks: int) -> None:
    node = Node()
    await node.topic("t")
    assert node.appended("t", acks=acks).error_code == ErrorCode.INVALID_REQUIRED_ACKS


async def test_acks_0_gets_no_answer_and_an_error_closes_the_connection() -> None:
    node = Node()
    topic = await node.topic("t")
    assert node.produce("t", acks=0) is None
    assert node.log(topic).next_offset == 1
    with pytest.raises(Refused, match="acks=0"):
        node.produce("nowhere", acks=0)


async def test_a_repeat_waits_for_the_original_and_gets_its_offset() -> None:
    node = Node()
    topic = await node.topic("t")
    results = [
        node.produce("t", batch([b"a", b"b"], producer_id=9, epoch=0, sequence=sequence)) for sequence in (0, 2, 0)
    ]
    assert node.log(topic).next_offset == 4
    assert not any(result.done for result in results)
    node.log(topic).flush(upto=2)
    assert [result.done for result in results] == [True, False, True]
    part = outcome(results[2]).responses[0].partition_responses[0]
    assert (part.error_code, part.base_offset, part.log_append_time_ms) == (0, 0, NOW_MS)
    node.log(topic).flush()
    assert outcome(results[1]).responses[0].partition_responses[0].base_offset == 2


async def test_a_gap_and_an_old_epoch_are_refused() -> None:
    node = Node()
    await node.topic("t")
    assert node.appended("t", batch(producer_id=9, epoch=1, sequence=0)).error_code == 0
    gap = node.appended("t", batch(producer_id=9, epoch=1, sequence=2))
    assert (gap.error_code, gap.base_offset) == (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1)
    old = node.appended("t", batch(producer_id=9, epoch=0, sequence=1))
    assert old.error_code == ErrorCode.INVALID_PRODUCER_EPOCH


async def test_a_refused_batch_leaves_no_trace_in_the_producer_s_state() -> None:
    node = Node()
    topic = await node.topic("t")
    node.log(topic).full = True
    full = node.appended("t", batch(producer_id=9, epoch=0, sequence=0))
    assert full.error_code == ErrorCode.KAFKA_STORAGE_ERROR
    assert ErrorCode(full.error_code).retriable
    node.log(topic).full = False
    assert node.appended("t", batch(producer_id=9, epoch=0, sequence=0)).base_offset == 0


async def test_a_failed_log_answers_what_waits_and_what_comes() -> None:
    node = Node()
    topic = await node.topic("t")
    first = node.produce("t", batch(producer_id=9, epoch=0, sequence=0))
    node.log(topic).fail()
    later = [node.produce("t", batch(producer_id=9, epoch=0, sequence=sequence)) for sequence in (0, 1, 2)]
    codes = [outcome(each).responses[0].partition_responses[0].error_code for each in (first, *later)]
    # the first one's records may be durable: its producer must not put them into other batches
    assert codes[0] == ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND
    # and it would, if the last one were said to be out of order behind the one that was refused
    assert codes[1:] == 3 * [ErrorCode.KAFKA_STORAGE_ERROR]
    assert all(ErrorCode(code).retriable for code in codes)


async def test_the_size_limit_is_the_topic_s() -> None:
    node = Node()
    await node.topic("t", max_message_bytes="200")
    assert node.appended("t", batch([b"x" * 50])).error_code == 0
    assert node.appended("t", batch([b"x" * 200])).error_code == ErrorCode.MESSAGE_TOO_LARGE


async def test_damaged_and_foreign_batches_are_refused() -> None:
    node = Node()
    await node.topic("t")
    damaged = batch([b"abc"])
    damaged[-2] ^= 1
    assert node.appended("t", damaged).error_code == ErrorCode.CORRUPT_MESSAGE
    assert node.appended("t", batch() + batch()).error_code == ErrorCode.INVALID_RECORD
    assert node.appended("t", bytearray()).error_code == ErrorCode.INVALID_RECORD
    transactional = batch(producer_id=1, epoch=0, sequence=0, transactional=True)
    assert node.appended("t", transactional).error_code == ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
async def test_compressed_batches_are_stored_as_they_came(codec: int) -> None:
    node = Node()
    topic = await node.topic("t", compression_type="uncompressed")
    sent = batch([b"a" * 100] * 50, compression=codec)
    original = bytes(sent)
    assert node.appended("t", sent).error_code == 0
    assert node.log(topic).batches[0][2][16:] == original[16:]


async def test_an_incredible_record_count_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.partition.inspection.BUDGET_S", 60.0)  # however slow the machine is
    node = Node()
    topic = await node.topic("t")
    honest = batch([b""] * 5000, compression=ZSTD)
    assert len(honest) < 5000
    assert node.appended("t", honest).error_code == 0
    lying = bytearray(batch([b""] * 10, compression=ZSTD))
    lying[57:61] = (2**31 - 1).to_bytes(4, "big")
    lying[23:27] = (2**31 - 2).to_bytes(4, "big")
    lying[17:21] = crc32c(lying[21:]).to_bytes(4, "big")
    assert node.appended("t", lying).error_code == ErrorCode.INVALID_RECORD
    assert node.log(topic).next_offset == 5000


async def test_zstd_needs_version_7() -> None:
    node = Node()
    await node.topic("t")
    part = node.appended("t", batch(compression=ZSTD), version=6)
    assert part.error_code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE


async def test_log_append_time_is_stamped_under_a_valid_crc() -> None:
    node = Node()
    topic = await node.topic("t", message_timestamp_type="LogAppendTime")
    part = node.appended("t", batch([b"a", b"b"], timestamps=[5, 10**15]))
    assert part.log_append_time_ms == NOW_MS
    stored = bytearray(node.log(topic).batches[0][2])
    assert [record.timestamp for record in decode_records(stored)] == [NOW_MS, NOW_MS]
    header = BatchHeader.read(stored)
    assert header.is_log_append_time
    stored[22] &= ~0x08
    with pytest.raises(Exception, match="CRC"):
        validate_batches(memoryview(stored))


async def test_timestamps_out_of_range_name_the_records() -> None:
    node = Node()
    await node.topic("t", message_timestamp_before_max_ms="1000")
    part = node.appended("t", batch([b"a", b"b"], timestamps=[NOW_MS, NOW_MS - 1001]))
    assert part.error_code == ErrorCode.INVALID_TIMESTAMP
    assert [error.batch_index for error in part.record_errors] == [1]
    hour = 3_600_000
    assert node.appended("t", batch(timestamps=[NOW_MS + hour])).error_code == 0
    part = node.appended("t", batch(timestamps=[NOW_MS + hour + 1]))
    assert part.error_code == ErrorCode.INVALID_TIMESTAMP


async def test_compacted_topics_want_keys() -> None:
    node = Node()
    await node.topic("t", cleanup_policy="compact")
    part = node.appended("t", batch([b"a", b"b", b"c"], keys=[b"k", None, b""]))
    assert part.error_code == ErrorCode.INVALID_RECORD
    assert [error.batch_index for error in part.record_errors] == [1]
    assert node.appended("t", batch([b"a", None], keys=[b"k", b"k"])).error_code == 0


async def test_the_leader_is_named_to_those_who_come_to_the_wrong_broker() -> None:
    node = Node()
    topic = node.topic_info("t", leader=2)
    await node.learn({topic.topic_id: topic}, {2: BrokerInfo(2, 1, "host", 9000, "r", "", True, False)})
    response = outcome(node.produce("t", version=10))
    part = response.responses[0].partition_responses[0]
    assert part.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert (part.current_leader.leader_id, part.current_leader.leader_epoch) == (2, 5)
    assert [(each.node_id, each.host, each.port) for each in response.node_endpoints] == [(2, "host", 9000)]
    assert not outcome(node.produce("t", version=9)).node_endpoints


async def test_topics_by_id() -> None:
    node = Node()
    topic = await node.topic("t")

    def send(topic_id: bytes) -> object:
        data = [PartitionProduceData(index=0, records=memoryview(batch()))]
        request = ProduceRequest(acks=1, topic_data=[TopicProduceData(topic_id=topic_id, partition_data=data)])
        result = produce.handle(node.services, context(0, 13), request)
        node.storage.flush()
        return outcome(result).responses[0].partition_responses[0].error_code

    assert send(topic.topic_id.bytes) == 0
    assert send(bytes(15) + b"\x09") == ErrorCode.UNKNOWN_TOPIC_ID


async def test_producers_are_throttled_under_pressure() -> None:
    node = Node()
    await node.topic("t")
    node.storage.level = 0.75
    result = node.produce("t")
    node.storage.flush()
    assert outcome(result).throttle_time_ms == 250


async def test_a_changed_config_holds_for_the_next_batch() -> None:
    node = Node()
    topic = await node.topic("t")
    changed = type(topic)(topic.topic_id, topic.name, False, 1, topic.partitions, {"max.message.bytes": "80"})
    await node.learn({topic.topic_id: changed})
    assert node.appended("t", batch([b"x" * 50])).error_code == ErrorCode.MESSAGE_TOO_LARGE


async def test_producer_ids_are_unique_and_come_in_blocks() -> None:
    node = Node()

    async def one() -> int:
        request = InitProducerIdRequest(transactional_id=None)
        response = await answer(init_producer_id.handle(node.services, context(22, 4), request))
        assert (response.error_code, response.producer_epoch) == (0, 0)
        producer_id: int = response.producer_id
        return producer_id

    ids = [await one() for _ in range(2500)]
    assert len(set(ids)) == 2500
    assert node.catalog.allocations == 3
