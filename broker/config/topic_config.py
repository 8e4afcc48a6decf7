"""`TopicConfig`: the effective configs of one topic, as typed attributes named after Kafka's configs.

A topic's own configs go over the broker's defaults (`max.message.bytes` over `message.max.bytes`, and so on, see
`topic_definitions`). A TopicConfig is frozen: when something changes there is a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker.config.broker_config import BrokerConfig
from broker.config.definition import ConfigDef, ConfigError, Value
from broker.config.topic_definitions import TOPIC_CONFIGS

_FLUSH_NEVER_MS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """Units are in the names; -1 means no limit in `retention_ms` and `retention_bytes`."""

    cleanup_policy: tuple[str, ...]
    compression_gzip_level: int
    compression_lz4_level: int
    compression_type: str
    compression_zstd_level: int
    delete_retention_ms: int
    file_delete_delay_ms: int
    flush_messages: int
    flush_ms: int
    follower_replication_throttled_replicas: tuple[str, ...]
    index_interval_bytes: int
    leader_replication_throttled_replicas: tuple[str, ...]
    local_retention_bytes: int
    local_retention_ms: int
    max_compaction_lag_ms: int
    max_message_bytes: int
    message_timestamp_after_max_ms: int
    message_timestamp_before_max_ms: int
    message_timestamp_type: str
    min_cleanable_dirty_ratio: float
    min_compaction_lag_ms: int
    min_insync_replicas: int
    preallocate: bool
    remote_log_copy_disable: bool
    remote_log_delete_on_disable: bool
    remote_storage_enable: bool
    retention_bytes: int
    retention_ms: int
    segment_bytes: int
    segment_index_bytes: int
    segment_jitter_ms: int
    segment_ms: int
    tailrace_durability: str
    unclean_leader_election_enable: bool

    @property
    def deletes(self) -> bool:
        """Retention by time and size applies."""
        return "delete" in self.cleanup_policy

    @property
    def compacts(self) -> bool:
        return "compact" in self.cleanup_policy

    @property
    def confirms_on_commit(self) -> bool:
        """A record counts when it is in a committed object."""
        return self.tailrace_durability == "object"

    @property
    def log_append_time(self) -> bool:
        return self.message_timestamp_type == "LogAppendTime"

    @classmethod
    def resolve(cls, configs: Mapping[str, str], broker: BrokerConfig) -> TopicConfig:
        """`configs`: what is set on the topic. What does not parse any more counts as not set."""
        values: dict[str, Any] = {
            definition.attribute: effective_value(definition, configs, broker) for definition in TOPIC_CONFIGS.values()
        }
        return cls(**values)


def effective_value(definition: ConfigDef, configs: Mapping[str, str], broker: BrokerConfig) -> Value:
    """The value of one topic config."""
    text = configs.get(definition.name)
    if text is not None:
        try:
            return definition.parse(text)
        except ConfigError:
            pass
    return default_value(definition, broker)


def default_value(definition: ConfigDef, broker: BrokerConfig) -> Value:
    """What a topic has that sets nothing."""
    match definition.synonym:
        case None:
            return definition.parse(definition.default)
        case "log.retention.ms":
            return broker.retention_ms
        case "log.roll.ms":
            return broker.roll_ms
        case "log.roll.jitter.ms":
            return broker.roll_jitter_ms
        case "log.flush.interval.ms":
            value = broker.value("log.flush.interval.ms")
            return _FLUSH_NEVER_MS if value is None else value
        case synonym:
            return broker.value(synonym)


def validate_topic_configs(configs: Mapping[str, str], broker: BrokerConfig) -> None:
    """Raise ConfigError if a topic cannot have these configs: each by itself, then together."""
    for name, text in configs.items():
        definition = TOPIC_CONFIGS.get(name)
        if definition is None:
            raise ConfigError(f"Unknown topic config name: {name}")
        definition.parse(text)
    effective = TopicConfig.resolve(configs, broker)
    if effective.min_compaction_lag_ms > effective.max_compaction_lag_ms:
        raise ConfigError(
            f"conflict topic config setting min.compaction.lag.ms ({effective.min_compaction_lag_ms}) > "
            f"max.compaction.lag.ms ({effective.max_compaction_lag_ms})"
        )
    if effective.remote_storage_enable:
        raise ConfigError(
            "Tiered Storage functionality is disabled in the broker. "
            "Topic cannot be configured with remote log storage."
        )
