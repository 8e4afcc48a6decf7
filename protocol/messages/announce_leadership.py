"""AnnounceLeadership, API key 20002, of tailrace: a leader tells another broker what that one is to lead.

Once before it lets go (`handed_over` false: the answer leaves when the other broker has made ready for it), and once
when the catalog has it. Both only save time: what counts is in the catalog, which the other broker follows.
"""

from __future__ import annotations

from typing import ClassVar

from protocol.types import UNSET, ZERO_UUID, Message, Struct


class AnnouncedTopic(Struct):
    __slots__ = ("partition_indexes", "topic_id")
    FIELDS: ClassVar[tuple[str, ...]] = ("topic_id uuid 0+", "partition_indexes []int32 0+")

    def __init__(self, *, topic_id: bytes = ZERO_UUID, partition_indexes: list[int] = UNSET) -> None:
        self.topic_id = topic_id
        self.partition_indexes: list[int] = [] if partition_indexes is UNSET else partition_indexes


class AnnounceLeadershipRequest(Message):
    __slots__ = ("handed_over", "node_id", "topics")
    API_KEY: ClassVar[int] = 20002
    VERSIONS: ClassVar[tuple[int, int]] = (0, 0)
    FLEXIBLE_SINCE: ClassVar[int] = 0
    FIELDS: ClassVar[tuple[str, ...]] = ("node_id int32 0+", "handed_over bool 0+", "topics []AnnouncedTopic 0+")

    def __init__(self, *, node_id: int = 0, handed_over: bool = False, topics: list[AnnouncedTopic] = UNSET) -> None:
        self.node_id = node_id
        self.handed_over = handed_over
        self.topics: list[AnnouncedTopic] = [] if topics is UNSET else topics


class AnnounceLeadershipResponse(Message):
    __slots__ = ("error_code", "throttle_time_ms")
    API_KEY: ClassVar[int] = 20002
    VERSIONS: ClassVar[tuple[int, int]] = (0, 0)
    FLEXIBLE_SINCE: ClassVar[int] = 0
    FIELDS: ClassVar[tuple[str, ...]] = ("throttle_time_ms int32 0+", "error_code int16 0+")

    def __init__(self, *, throttle_time_ms: int = 0, error_code: int = 0) -> None:
        self.throttle_time_ms = throttle_time_ms
        self.error_code = error_code
