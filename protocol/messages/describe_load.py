"""DescribeLoad, API key 20000, of tailrace: what one broker has to do, partition by partition.

Rates are per second. `cpu` is in cores: 1.0 is one core at work all the time. `metadata_seq` is how far the broker has
followed the catalog's changes. The totals are those of all partitions; listed are the busiest ones.
"""

from __future__ import annotations

from typing import ClassVar

from protocol.types import UNSET, ZERO_UUID, Message, Struct


class DescribeLoadRequest(Message):
    __slots__ = ("include_partitions",)
    API_KEY: ClassVar[int] = 20000
    VERSIONS: ClassVar[tuple[int, int]] = (0, 0)
    FLEXIBLE_SINCE: ClassVar[int] = 0
    FIELDS: ClassVar[tuple[str, ...]] = ("include_partitions bool 0+ default true",)

    def __init__(self, *, include_partitions: bool = True) -> None:
        self.include_partitions = include_partitions


class LoadOfPartition(Struct):
    __slots__ = ("bytes_in", "bytes_out", "partition_index", "requests")
    FIELDS: ClassVar[tuple[str, ...]] = (
        "partition_index int32 0+",
        "bytes_in float64 0+",
        "bytes_out float64 0+",
        "requests float64 0+",
    )

    def __init__(
        self, *, partition_index: int = 0, bytes_in: float = 0.0, bytes_out: float = 0.0, requests: float = 0.0
    ) -> None:
        self.partition_index = partition_index
        self.bytes_in = bytes_in
        self.bytes_out = bytes_out
        self.requests = requests


class LoadOfTopic(Struct):
    __slots__ = ("partitions", "topic_id")
    FIELDS: ClassVar[tuple[str, ...]] = ("topic_id uuid 0+", "partitions []LoadOfPartition 0+")

    def __init__(self, *, topic_id: bytes = ZERO_UUID, partitions: list[LoadOfPartition] = UNSET) -> None:
        self.topic_id = topic_id
        self.partitions: list[LoadOfPartition] = [] if partitions is UNSET else partitions


class DescribeLoadResponse(Message):
    __slots__ = (
        "bytes_in",
        "bytes_out",
        "cpu",
        "error_code",
        "metadata_seq",
        "node_id",
        "requests",
        "throttle_time_ms",
        "topics",
    )
    API_KEY: ClassVar[int] = 20000
    VERSIONS: ClassVar[tuple[int, int]] = (0, 0)
    FLEXIBLE_SINCE: ClassVar[int] = 0
    FIELDS: ClassVar[tuple[str, ...]] = (
        "throttle_time_ms int32 0+",
        "error_code int16 0+",
        "node_id int32 0+",
        "metadata_seq int64 0+",
        "cpu float64 0+",
        "bytes_in float64 0+",
        "bytes_out float64 0+",
        "requests float64 0+",
        "topics []LoadOfTopic 0+",
    )

    def __init__(
        self,
        *,
        throttle_time_ms: int = 0,
        error_code: int = 0,
        node_id: int = 0,
        metadata_seq: int = 0,
        cpu: float = 0.0,
        bytes_in: float = 0.0,
        bytes_out: float = 0.0,
        requests: float = 0.0,
        topics: list[LoadOfTopic] = UNSET,
    ) -> None:
        self.throttle_time_ms = throttle_time_ms
        self.error_code = error_code
        self.node_id = node_id
        self.metadata_seq = metadata_seq
        self.cpu = cpu
        self.bytes_in = bytes_in
        self.bytes_out = bytes_out
        self.requests = requests
        self.topics: list[LoadOfTopic] = [] if topics is UNSET else topics
