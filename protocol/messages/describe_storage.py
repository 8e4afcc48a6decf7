"""DescribeStorage, API key 20003, of tailrace: what one broker has asked of its object store, and what it holds.

Counts and sizes of requests are since the broker's start, `uptime_ms` ago. Sizes are bytes. Objects of the whole
cluster are counted where `include_objects` asks for it, else they are -1.
"""

from __future__ import annotations

from typing import ClassVar

from protocol.types import UNSET, Message, Struct


class DescribeStorageRequest(Message):
    __slots__ = ("include_objects", "topics")
    API_KEY: ClassVar[int] = 20003
    VERSIONS: ClassVar[tuple[int, int]] = (0, 0)
    FLEXIBLE_SINCE: ClassVar[int] = 0
    FIELDS: ClassVar[tuple[str, ...]] = ("topics []string 0+ null 0+ default null", "include_objects bool 0+")

    def __init__(self, *, topics: list[str] | None = None, include_objects: bool = False) -> None:
        self.topics = topics
        self.include_objects = include_objects


class StorageOfPartition(Struct):
    __slots__ = ("object_count", "partition_index", "size", "unuploaded_size")
    FIELDS: ClassVar[tuple[str, ...]] = (
        "partition_index int32 0+",
        "size int64 0+",
        "object_count int32 0+",
        "unuploaded_size int64 0+",
    )

    def __init__(
        self, *, partition_index: int = 0, size: int = 0, object_count: int = 0, unuploaded_size: int = 0
    ) -> None:
        self.partition_index = partition_index
        self.size = size
        self.object_count = object_count
        self.unuploaded_size = unuploaded_size


class StorageOfTopic(Struct):
    __slots__ = ("name", "partitions")
    FIELDS: ClassVar[tuple[str, ...]] = ("name string 0+", "partitions []StorageOfPartition 0+")

    def __init__(self, *, name: str = "", partitions: list[StorageOfPartition] = UNSET) -> None:
        self.name = name
        self.partitions: list[StorageOfPartition] = [] if partitions is UNSET else partitions


class DescribeStorageResponse(Message):
    __slots__ = (
        "appended_size",
        "cache_hit_count",
        "cache_miss_count",
        "compaction_read_size",
        "compaction_written_size",
        "delete_count",
        "error_code",
        "failed_count",
        "get_count",
        "get_size",
        "head_count",
        "list_count",
        "node_id",
        "object_count",
        "object_size",
        "put_count",
        "put_size",
        "throttle_time_ms",
        "topics",
        "unneeded_count",
        "unuploaded_age_ms",
        "unuploaded_size",
        "uptime_ms",
    )
    API_KEY: ClassVar[int] = 20003
    VERSIONS: ClassVar[tuple[int, int]] = (0, 0)
    FLEXIBLE_SINCE: ClassVar[int] = 0
    FIELDS: ClassVar[tuple[str, ...]] = (
        "throttle_time_ms int32 0+",
        "error_code int16 0+",
        "node_id int32 0+",
        "uptime_ms int64 0+",
        "put_count int64 0+",
        "get_count int64 0+",
        "head_count int64 0+",
        "list_count int64 0+",
        "delete_count int64 0+",
        "failed_count int64 0+",
        "put_size int64 0+",
        "get_size int64 0+",
        "appended_size int64 0+",
        "cache_hit_count int64 0+",
        "cache_miss_count int64 0+",
        "compaction_read_size int64 0+",
        "compaction_written_size int64 0+",
        "unuploaded_size int64 0+",
        "unuploaded_age_ms int64 0+",
        "object_count int64 0+ default -1",
        "object_size int64 0+ default -1",
        "unneeded_count int64 0+ default -1",
        "topics []StorageOfTopic 0+",
    )

    def __init__(
        self,
        *,
        throttle_time_ms: int = 0,
        error_code: int = 0,
        node_id: int = 0,
        uptime_ms: int = 0,
        put_count: int = 0,
        get_count: int = 0,
        head_count: int = 0,
        list_count: int = 0,
        delete_count: int = 0,
        failed_count: int = 0,
        put_size: int = 0,
        get_size: int = 0,
        appended_size: int = 0,
        cache_hit_count: int = 0,
        cache_miss_count: int = 0,
        compaction_read_size: int = 0,
        compaction_written_size: int = 0,
        unuploaded_size: int = 0,
        unuploaded_age_ms: int = 0,
        object_count: int = -1,
        object_size: int = -1,
        unneeded_count: int = -1,
        topics: list[StorageOfTopic] = UNSET,
    ) -> None:
        self.throttle_time_ms = throttle_time_ms
        self.error_code = error_code
        self.node_id = node_id
        self.uptime_ms = uptime_ms
        self.put_count = put_count
        self.get_count = get_count
        self.head_count = head_count
        self.list_count = list_count
        self.delete_count = delete_count
        self.failed_count = failed_count
        self.put_size = put_size
        self.get_size = get_size
        self.appended_size = appended_size
        self.cache_hit_count = cache_hit_count
        self.cache_miss_count = cache_miss_count
        self.compaction_read_size = compaction_read_size
        self.compaction_written_size = compaction_written_size
        self.unuploaded_size = unuploaded_size
        self.unuploaded_age_ms = unuploaded_age_ms
        self.object_count = object_count
        self.object_size = object_size
        self.unneeded_count = unneeded_count
        self.topics: list[StorageOfTopic] = [] if topics is UNSET else topics
