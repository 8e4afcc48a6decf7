"""Kafka requests on bare sockets, for what client libraries do not do: idle connections, polls that nobody reads."""

from __future__ import annotations

import socket
import struct
from typing import Any

from bench.raw_load import read_frame
from protocol.api_keys import ApiKey
from protocol.codec import decode_response, encode_request
from protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData

FETCH_VERSION = 12
"""The last one with topic names."""
MIB = 1024 * 1024


def fetch_request(topic: str, partition: int, offset: int, *, max_wait_ms: int, max_bytes: int = MIB) -> bytes:
    """A frame that asks for at least one byte of one partition."""
    asked = FetchPartition(partition=partition, fetch_offset=offset, partition_max_bytes=max_bytes)
    request = FetchRequest(
        replica_id=-1,
        max_wait_ms=max_wait_ms,
        min_bytes=1,
        max_bytes=max_bytes,
        session_epoch=-1,
        topics=[FetchTopic(topic=topic, partitions=[asked])],
    )
    return encode_request(ApiKey.FETCH, FETCH_VERSION, 1, "raw", request)


def half_request(size: int, sent: int) -> bytes:
    """The first `sent` bytes of a Fetch of `size` bytes that does not go on."""
    return struct.pack(">ihhi", size, ApiKey.FETCH, FETCH_VERSION, 1) + bytes(sent)


def produce_frame(topic: str, records: bytes | memoryview) -> bytes:
    """A frame with one batch for partition 0."""
    data = TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=0, records=records)])
    return encode_request(ApiKey.PRODUCE, 9, 1, "test", ProduceRequest(acks=-1, timeout_ms=5000, topic_data=[data]))


class RawConnection:
    """One socket. `receive_buffer` bounds what the kernel takes in for a client that does not read."""

    def __init__(self, host: str, port: int, *, receive_buffer: int | None = None, timeout_s: float = 60.0) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout_s)
        self.socket.connect((host, port))

    def send(self, frame: bytes) -> None:
        self.socket.sendall(frame)

    def receive_fetch(self) -> FetchResponse:
        response: Any = decode_response(ApiKey.FETCH, FETCH_VERSION, read_frame(self.socket))[1]
        assert isinstance(response, FetchResponse)
        return response

    def close(self) -> None:
        self.socket.close()
