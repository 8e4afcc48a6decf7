"""Nothing hangs: no transaction is open, at its coordinator, in a partition, or below a partition's end."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedRWPair
from itertools import groupby
from typing import TypeVar

from bench.transaction_history import Isolation, Place
from protocol.api_keys import ApiKey
from protocol.codec import decode_response, encode_request
from protocol.messages.describe_producers import DescribeProducersRequest, DescribeProducersResponse, TopicRequest
from protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from protocol.messages.list_transactions import ListTransactionsRequest, ListTransactionsResponse
from protocol.types import Message

R = TypeVar("R", bound=Message)
Connection = BufferedRWPair
CALL_TIMEOUT_S = 30.0
LATEST = -1
OVER = {"Empty", "CompleteCommit", "CompleteAbort"}
OFFSETS_TOPIC = "__consumer_offsets"
OFFSETS_PARTITIONS = 50


def wait_until_settled(bootstrap: str, places: Iterable[Place], timeout_s: float) -> float:
    """Returns the seconds it took. Raises AssertionError with what still hangs then, also in the groups' offsets."""
    watched = sorted({*places, *(Place(OFFSETS_TOPIC, partition) for partition in range(OFFSETS_PARTITIONS))})
    began = time.monotonic()
    with _connection(bootstrap) as connection:
        while hanging := what_hangs(connection, watched):
            assert time.monotonic() - began < timeout_s, f"after {timeout_s} s still open: {hanging[:10]}"
            time.sleep(0.1)
    return time.monotonic() - began


def is_stable(bootstrap: str, places: Iterable[Place]) -> bool:
    """No transaction is open below the end of any of these partitions."""
    watched = sorted(places)
    with _connection(bootstrap) as connection:
        return _ends(connection, watched, Isolation.COMMITTED) == _ends(connection, watched, Isolation.UNCOMMITTED)


@contextmanager
def _connection(bootstrap: str) -> Iterator[Connection]:
    host, _, port = bootstrap.rpartition(":")
    with socket.create_connection((host, int(port)), CALL_TIMEOUT_S) as plain, plain.makefile("rwb") as stream:
        yield stream


def what_hangs(connection: Connection, places: list[Place]) -> list[str]:
    found = [f"transaction {told}" for told in _transactions(connection)]
    found += [f"producer {producer} in {place}" for place, producer in _open_producers(connection, places)]
    ends = _ends(connection, places, Isolation.UNCOMMITTED)
    stable = _ends(connection, places, Isolation.COMMITTED)
    unstable = [place for place in places if stable[place] != ends[place]]
    found += [f"{place}: stable up to {stable[place]} of {ends[place]}" for place in unstable]
    return found


def _transactions(connection: Connection) -> list[str]:
    response = _call(connection, ApiKey.LIST_TRANSACTIONS, 1, ListTransactionsRequest(), ListTransactionsResponse)
    assert response.error_code == 0, response.error_code
    return [
        f"{each.transactional_id} {each.transaction_state}"
        for each in response.transaction_states
        if each.transaction_state not in OVER
    ]


def _open_producers(connection: Connection, places: list[Place]) -> list[tuple[Place, int]]:
    topics = [
        TopicRequest(name=topic, partition_indexes=[place.partition for place in group])
        for topic, group in groupby(places, lambda place: place.topic)
    ]
    request = DescribeProducersRequest(topics=topics)
    response = _call(connection, ApiKey.DESCRIBE_PRODUCERS, 0, request, DescribeProducersResponse)
    found = []
    for topic in response.topics:
        for partition in topic.partitions:
            assert partition.error_code == 0, (topic.name, partition.partition_index, partition.error_code)
            place = Place(topic.name, partition.partition_index)
            open_ones = [each for each in partition.active_producers if each.current_txn_start_offset >= 0]
            found += [(place, producer.producer_id) for producer in open_ones]
    return found


def _ends(connection: Connection, places: list[Place], isolation: Isolation) -> dict[Place, int]:
    topics = [
        ListOffsetsTopic(
            name=topic,
            partitions=[ListOffsetsPartition(partition_index=place.partition, timestamp=LATEST) for place in group],
        )
        for topic, group in groupby(places, lambda place: place.topic)
    ]
    level = 1 if isolation is Isolation.COMMITTED else 0
    request = ListOffsetsRequest(replica_id=-1, isolation_level=level, topics=topics)
    response = _call(connection, ApiKey.LIST_OFFSETS, 7, request, ListOffsetsResponse)
    found = {}
    for topic in response.topics:
        for partition in topic.partitions:
            assert partition.error_code == 0, (topic.name, partition.partition_index, partition.error_code)
            found[Place(topic.name, partition.partition_index)] = partition.offset
    return found


def _call(connection: Connection, key: ApiKey, version: int, request: Message, answer: type[R]) -> R:
    connection.write(encode_request(key, version, 1, "settled", request))
    connection.flush()
    size = struct.unpack(">i", connection.read(4))[0]
    _, response = decode_response(key, version, connection.read(size))
    assert isinstance(response, answer)
    return response
