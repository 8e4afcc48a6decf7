"""The settings of the group coordinator. None of them changes while a broker runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.coordinator.group.consumer.config import ConsumerGroupConfig, GroupOverrides

if TYPE_CHECKING:
    from broker.config.broker_config import BrokerConfig

NEW_MEMBER_JOIN_TIMEOUT_MS = 5 * 60 * 1000
"""How long a member that never had a join answered may stay silent: it cannot heartbeat yet."""


@dataclass(frozen=True, slots=True)
class GroupConfig:
    min_session_timeout_ms: int = 6_000
    max_session_timeout_ms: int = 1_800_000
    initial_rebalance_delay_ms: int = 3_000
    size_max: int = 2**31 - 1
    offset_metadata_size_max: int = 4096
    """In characters, as Kafka counts it."""
    offset_commit_size_max: int = 1_048_588
    """Bytes of the records of one commit, which with Kafka have to fit into one batch of the offsets topic."""
    offsets_retention_ms: int = 7 * 24 * 3600 * 1000
    offsets_retention_check_interval_ms: int = 600_000
    consumer: ConsumerGroupConfig = field(default_factory=ConsumerGroupConfig)

    @staticmethod
    def from_broker(config: BrokerConfig, overrides: GroupOverrides) -> GroupConfig:
        return GroupConfig(
            min_session_timeout_ms=config.group_min_session_timeout_ms,
            max_session_timeout_ms=config.group_max_session_timeout_ms,
            initial_rebalance_delay_ms=config.group_initial_rebalance_delay_ms,
            size_max=config.group_max_size,
            offset_metadata_size_max=config.offset_metadata_max_bytes,
            offset_commit_size_max=config.message_max_bytes,
            offsets_retention_ms=config.offsets_retention_minutes * 60_000,
            offsets_retention_check_interval_ms=config.offsets_retention_check_interval_ms,
            consumer=ConsumerGroupConfig.from_broker(config, overrides),
        )
