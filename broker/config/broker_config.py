"""`BrokerConfig`: the effective broker configs of this broker, as typed attributes.

A value is looked for in the dynamic configs of this broker, then the dynamic defaults of the cluster, then the static
settings, then Kafka's default. Every config of `broker_definitions` is an attribute named after it
(`socket.request.max.bytes` -> `socket_request_max_bytes`) that costs one attribute load.

Invariants
----------
* Attributes change only in `set_dynamic`, all in one step on the loop's thread: between two awaits they are consistent.
* Static values are valid, else there is no BrokerConfig. A dynamic value that does not parse (written by a newer
  version) is as if it were not set.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import structlog

from broker.config.broker_definitions import BROKER_CONFIGS
from broker.config.definition import ConfigDef, ConfigError, ConfigSource, Update, Value

log = structlog.get_logger()


class BrokerConfig:
    """See the module docstring. Raises ConfigError for a static name or value that is not acceptable."""

    node_id: int | None
    broker_rack: str | None
    num_partitions: int
    default_replication_factor: int
    auto_create_topics_enable: bool
    delete_topic_enable: bool
    log_cleanup_policy: tuple[str, ...]
    log_retention_ms: int | None
    log_retention_minutes: int | None
    log_retention_hours: int
    log_retention_bytes: int
    log_cleaner_enable: bool
    log_cleaner_backoff_ms: int
    log_cleaner_dedupe_buffer_size: int
    log_retention_check_interval_ms: int
    message_max_bytes: int
    log_message_timestamp_type: str
    log_message_timestamp_before_max_ms: int
    log_message_timestamp_after_max_ms: int
    producer_id_expiration_ms: int
    socket_request_max_bytes: int
    fetch_max_bytes: int
    max_connections: int
    max_connections_per_ip: int
    connections_max_idle_ms: int
    queued_max_requests: int
    queued_max_request_bytes: int
    max_incremental_fetch_session_cache_slots: int
    max_request_partition_size_limit: int
    request_timeout_ms: int
    auto_leader_rebalance_enable: bool
    leader_imbalance_check_interval_seconds: int
    tailrace_balance_load_percentage: int
    tailrace_balance_moves_max: int
    tailrace_balance_partitions_percentage: int
    replica_selector_class: str
    tailrace_durability: str
    tailrace_internal_topics_durability: str | None
    group_min_session_timeout_ms: int
    group_max_session_timeout_ms: int
    group_initial_rebalance_delay_ms: int
    group_max_size: int
    group_consumer_session_timeout_ms: int
    group_consumer_min_session_timeout_ms: int
    group_consumer_max_session_timeout_ms: int
    group_consumer_heartbeat_interval_ms: int
    group_consumer_min_heartbeat_interval_ms: int
    group_consumer_max_heartbeat_interval_ms: int
    group_consumer_assignment_interval_ms: int
    group_consumer_min_assignment_interval_ms: int
    group_consumer_max_assignment_interval_ms: int
    group_consumer_max_size: int
    group_consumer_assignors: tuple[str, ...]
    group_consumer_migration_policy: str
    offset_metadata_max_bytes: int
    offsets_commit_timeout_ms: int
    offsets_retention_minutes: int
    offsets_retention_check_interval_ms: int
    offsets_topic_num_partitions: int
    offsets_topic_replication_factor: int
    offsets_topic_segment_bytes: int
    offsets_topic_compression_codec: int
    transaction_state_log_num_partitions: int
    transaction_state_log_replication_factor: int
    transaction_state_log_min_isr: int
    transaction_state_log_segment_bytes: int
    transaction_max_timeout_ms: int
    transactional_id_expiration_ms: int
    transaction_abort_timed_out_transaction_cleanup_interval_ms: int
    transaction_remove_expired_transaction_cleanup_interval_ms: int
    transaction_partition_verification_enable: bool
    add_partitions_to_txn_retry_backoff_ms: int
    add_partitions_to_txn_retry_backoff_max_ms: int

    def __init__(self, static: Mapping[str, str] | None = None) -> None:
        self.static: Mapping[str, str] = MappingProxyType(dict(static or {}))
        self.dynamic_default: Mapping[str, str] = {}
        self.dynamic: Mapping[str, str] = {}
        self._values: dict[str, Value] = {}
        for name, text in self.static.items():
            definition = BROKER_CONFIGS.get(name)
            if definition is None:
                raise ConfigError(f"Unknown broker config name: {name}")
            definition.parse(text)
        self._load()

    def set_dynamic(self, cluster_default: Mapping[str, str], broker: Mapping[str, str]) -> None:
        """Take over what is set dynamically now; what is not in the mappings is unset."""
        self.dynamic_default = cluster_default
        self.dynamic = broker
        self._load()

    def value(self, name: str) -> Value:
        """The effective typed value; KeyError for a name that is not defined."""
        return self._values[name]

    def layers(self) -> tuple[tuple[ConfigSource, Mapping[str, str]], ...]:
        """Where values are looked for, strongest first; the defaults come after these."""
        return (
            (ConfigSource.DYNAMIC_BROKER, self.dynamic),
            (ConfigSource.DYNAMIC_DEFAULT_BROKER, self.dynamic_default),
            (ConfigSource.STATIC_BROKER, self.static),
        )

    # -- values in the unit that topics use -------------------------------------------------------------------------
    @property
    def retention_ms(self) -> int:
        """From log.retention.ms, .minutes or .hours, whichever is set first; -1: for ever."""
        if self.log_retention_ms is not None:
            value = self.log_retention_ms
        elif self.log_retention_minutes is not None:
            value = self.log_retention_minutes * 60_000
        else:
            value = self.log_retention_hours * 3_600_000
        return max(value, -1)

    @property
    def roll_ms(self) -> int:
        """From log.roll.ms or .hours."""
        return self._in_ms("log.roll.ms", "log.roll.hours")

    @property
    def roll_jitter_ms(self) -> int:
        """From log.roll.jitter.ms or .hours."""
        return self._in_ms("log.roll.jitter.ms", "log.roll.jitter.hours")

    def _in_ms(self, ms_name: str, hours_name: str) -> int:
        ms, hours = self._values[ms_name], self._values[hours_name]
        if isinstance(ms, int):
            return ms
        assert isinstance(hours, int)
        return hours * 3_600_000

    def _load(self) -> None:
        for name, definition in BROKER_CONFIGS.items():
            value = self._values[name] = self._find(definition)
            setattr(self, definition.attribute, value)

    def _find(self, definition: ConfigDef) -> Value:
        name = definition.name
        if definition.update is not Update.READ_ONLY:
            for layer in (self.dynamic, self.dynamic_default):
                if name in layer:
                    try:
                        return definition.parse(layer[name])
                    except ConfigError as error:
                        log.warning("dynamic config ignored", name=name, error=str(error))
        return definition.parse(self.static.get(name, definition.default))
