"""DescribeBalance, API key 20001, of tailrace: the brokers, what each has to do, and which partitions move.

Any broker can be asked; `balancer_id` is the one that balances, and the only one that knows why what it moves is under
way. Rates are per second, `cpu` is in cores; -1 if the broker did not say. `state` is one of active, draining, drained,
stopping, unreachable, stopped, failed. `planned` is what would be moved next.
"""

from __future__ import annotations

from typing import ClassVar

from protocol.types import UNSET, Message, Struct


class DescribeBalanceRequest(Message):
    __slots__ = ()
    API_KEY: ClassVar[int] = 20001
    VERSIONS: ClassVar[tuple[int, int]] = (0, 0)
    FLEXIBLE_SINCE: ClassVar[int] = 0
    FIELDS: ClassVar[tuple[str, ...]] = ()


class BalancedBroker(Struct):
    __slots__ = (
        "bytes_in",
        "bytes_out",
        "cpu",
        "host",
        "node_id",
        "partition_count",
        "port",
        "rack",
        "requests",
        "state",
    )
    FIELDS: ClassVar[tuple[str, ...]] = (
        "node_id int32 0+",
        "host string 0+",
        "port uint16 0+",
        "rack string 0+ null 0+",
        "state string 0+",
        "partition_count int32 0+",
        "bytes_in float64 0+ default -1",
        "bytes_out float64 0+ default -1",
        "requests float64 0+ default -1",
        "cpu float64 0+ default -1",
    )

    def __init__(
        self,
        *,
        node_id: int = 0,
        host: str = "",
        port: int = 0,
        rack: str | None = "",
        state: str = "",
        partition_count: int = 0,
        bytes_in: float = -1,
        bytes_out: float = -1,
        requests: float = -1,
        cpu: float = -1,
    ) -> None:
        self.node_id = node_id
        self.host = host
        self.port = port
        self.rack = rack
        self.state = state
        self.partition_count = partition_count
        self.bytes_in = bytes_in
        self.bytes_out = bytes_out
        self.requests = requests
        self.cpu = cpu


class PartitionMove(Struct):
    __slots__ = ("partition_index", "reason", "source_id", "target_id", "topic_name")
    FIELDS: ClassVar[tuple[str, ...]] = (
        "topic_name string 0+",
        "partition_index int32 0+",
        "source_id int32 0+",
        "target_id int32 0+",
        "reason string 0+",
    )

    def __init__(
        self,
        *,
        topic_name: str = "",
        partition_index: int = 0,
        source_id: int = 0,
        target_id: int = 0,
        reason: str = "",
    ) -> None:
        self.topic_name = topic_name
        self.partition_index = partition_index
        self.source_id = source_id
        self.target_id = target_id
        self.reason = reason


class DescribeBalanceResponse(Message):
    __slots__ = ("balancer_id", "brokers", "enabled", "error_code", "moving", "planned", "throttle_time_ms")
    API_KEY: ClassVar[int] = 20001
    VERSIONS: ClassVar[tuple[int, int]] = (0, 0)
    FLEXIBLE_SINCE: ClassVar[int] = 0
    FIELDS: ClassVar[tuple[str, ...]] = (
        "throttle_time_ms int32 0+",
        "error_code int16 0+",
        "balancer_id int32 0+",
        "enabled bool 0+",
        "brokers []BalancedBroker 0+",
        "moving []PartitionMove 0+",
        "planned []PartitionMove 0+",
    )

    def __init__(
        self,
        *,
        throttle_time_ms: int = 0,
        error_code: int = 0,
        balancer_id: int = 0,
        enabled: bool = False,
        brokers: list[BalancedBroker] = UNSET,
        moving: list[PartitionMove] = UNSET,
        planned: list[PartitionMove] = UNSET,
    ) -> None:
        self.throttle_time_ms = throttle_time_ms
        self.error_code = error_code
        self.balancer_id = balancer_id
        self.enabled = enabled
        self.brokers: list[BalancedBroker] = [] if brokers is UNSET else brokers
        self.moving: list[PartitionMove] = [] if moving is UNSET else moving
        self.planned: list[PartitionMove] = [] if planned is UNSET else planned
