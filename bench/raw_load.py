"""Produce requests encoded beforehand, sent as fast as they are answered: a client that costs next to nothing.

For ratios between brokers where a real client would take most of the machine: a regression guard, a profile.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from struct import Struct

from protocol.api_keys import ApiKey
from protocol.codec import decode_response, encode_request
from protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData

IN_FLIGHT = 5
PRODUCE_VERSION, METADATA_VERSION = 9, 9
TOPIC_TIMEOUT_S = 20.0
_size = Struct(">i")


class RawLoad:
    """One connection. `frame` is sent again and again, so its batches are of no producer (not idempotent)."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def make_topic(self, topic: str, partitions: int) -> None:
        """By asking for it; returns when so many partitions have leaders."""
        request = MetadataRequest(topics=[MetadataRequestTopic(name=topic)], allow_auto_topic_creation=True)
        deadline = time.monotonic() + TOPIC_TIMEOUT_S
        while time.monotonic() < deadline:
            self._socket.sendall(encode_request(ApiKey.METADATA, METADATA_VERSION, 0, "load", request))
            _, told = decode_response(ApiKey.METADATA, METADATA_VERSION, read_frame(self._socket))
            if sum(each.leader_id >= 0 for each in told.topics[0].partitions) == partitions:
                return
            time.sleep(0.02)
        raise TimeoutError(f"topic {topic} has no {partitions} partitions with leaders")

    def run(self, frame: bytes, count: int) -> float:
        """Send `frame` so often, a few in flight; returns seconds. Raises RuntimeError for a refused batch."""
        began = time.monotonic()
        in_flight: deque[int] = deque()
        for number in range(count):
            self._socket.sendall(frame)
            in_flight.append(number)
            if len(in_flight) == IN_FLIGHT:
                self._take(in_flight)
        while in_flight:
            self._take(in_flight)
        return time.monotonic() - began

    def close(self) -> None:
        self._socket.close()

    def _take(self, in_flight: deque[int]) -> None:
        in_flight.popleft()
        _, response = decode_response(ApiKey.PRODUCE, PRODUCE_VERSION, read_frame(self._socket))
        for topic in response.responses:
            for answer in topic.partition_responses:
                if answer.error_code:
                    raise RuntimeError(f"a batch was refused: error {answer.error_code}")


def read_frame(connection: socket.socket) -> bytearray:
    """The next response without its size. Raises ConnectionError if the broker closes instead."""
    return _read(connection, _size.unpack(_read(connection, _size.size))[0])


def _read(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = connection.recv_into(rest)
        if not count:
            raise ConnectionError("the broker closed the connection")
        rest = rest[count:]
    return data


def produce_frame(topic: str, batches: list[bytes]) -> bytes:
    """One request, acks=all, with a batch for each partition from 0 on."""
    data = [PartitionProduceData(index=index, records=batch) for index, batch in enumerate(batches)]
    request = ProduceRequest(acks=-1, timeout_ms=30_000, topic_data=[TopicProduceData(name=topic, partition_data=data)])
    return encode_request(ApiKey.PRODUCE, PRODUCE_VERSION, 1, "load", request)
