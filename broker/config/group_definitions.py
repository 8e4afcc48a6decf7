"""Configs of groups (KIP-848, KIP-932, KIP-1071) and of client metrics subscriptions (KIP-714).

Those of consumer groups are honoured (`broker.coordinator.group.consumer.config`). The others can be set, validated,
listed and described; what they are about is not served by this broker, so they have no effect.
"""

from __future__ import annotations

import re

from broker.config.broker_definitions import BROKER_CONFIGS
from broker.config.definition import (
    ConfigDef,
    ConfigError,
    ConfigType,
    Effect,
    Validator,
    Value,
    at_least,
    by_name,
    one_of,
)

_BOOLEAN, _STRING, _INT, _LIST = ConfigType.BOOLEAN, ConfigType.STRING, ConfigType.INT, ConfigType.LIST

INTERVAL_MS_MIN = 100
INTERVAL_MS_MAX = 3_600_000
MATCH_KEYS = frozenset(
    (
        "client_id",
        "client_instance_id",
        "client_software_name",
        "client_software_version",
        "client_source_address",
        "client_source_port",
    )
)


def _group(name: str, type_: ConfigType, default: object, validate: Validator | None, doc: str) -> ConfigDef:
    synonym = f"group.{name}"
    effect = Effect.HONOURED if name.startswith("consumer.") else Effect.ACCEPTED
    return ConfigDef(
        name, type_, str(default), validate, effect, doc, "", synonym if synonym in BROKER_CONFIGS else None
    )


_POSITIVE = at_least(1)

GROUP_CONFIGS: dict[str, ConfigDef] = by_name(
    (
        _group("consumer.session.timeout.ms", _INT, 45000, _POSITIVE, "When a silent consumer is removed."),
        _group("consumer.heartbeat.interval.ms", _INT, 5000, _POSITIVE, "How often consumers send heartbeats."),
        _group("consumer.assignment.interval.ms", _INT, 1000, at_least(0), "Least time between two assignments."),
        _group("share.session.timeout.ms", _INT, 45000, _POSITIVE, "When a silent share consumer is removed."),
        _group("share.heartbeat.interval.ms", _INT, 5000, _POSITIVE, "How often share consumers send heartbeats."),
        _group("share.assignment.interval.ms", _INT, 1000, at_least(0), "Least time between two assignments."),
        _group("share.record.lock.duration.ms", _INT, 30000, at_least(1000), "How long a record stays acquired."),
        _group("share.delivery.count.limit", _INT, 5, at_least(2), "How often a record is delivered at most."),
        _group("share.partition.max.record.locks", _INT, 2000, at_least(100), "Acquired records in a partition."),
        _group("share.auto.offset.reset", _STRING, "latest", None, "Where a new share group begins."),
        _group(
            "share.isolation.level",
            _STRING,
            "read_uncommitted",
            one_of("read_committed", "read_uncommitted"),
            "Whether records of aborted transactions are delivered.",
        ),
        _group("share.renew.acknowledge.enable", _BOOLEAN, "true", None, "Let consumers renew acquired records."),
        _group("streams.session.timeout.ms", _INT, 45000, _POSITIVE, "When a silent streams client is removed."),
        _group("streams.heartbeat.interval.ms", _INT, 5000, _POSITIVE, "How often streams clients send heartbeats."),
        _group("streams.assignment.interval.ms", _INT, 1000, at_least(0), "Least time between two assignments."),
        _group("streams.initial.rebalance.delay.ms", _INT, 3000, at_least(0), "How long a new group waits."),
        _group("streams.num.standby.replicas", _INT, 0, at_least(0), "Standby replicas of each task."),
    )
)


def _check_interval(name: str, value: Value) -> None:
    assert isinstance(value, int)
    if not INTERVAL_MS_MIN <= value <= INTERVAL_MS_MAX:
        raise ConfigError(
            f"Invalid value {value} for {name}, interval must be between {INTERVAL_MS_MIN} and {INTERVAL_MS_MAX} "
            "(1 hour)"
        )


def _check_match(name: str, value: Value) -> None:
    assert isinstance(value, tuple)
    for pattern in value:
        key, equals, expression = pattern.partition("=")
        if not equals or key.strip() not in MATCH_KEYS:
            raise ConfigError(f"Illegal client matching pattern: {pattern}")
        try:
            re.compile(expression.strip())
        except re.error as error:
            raise ConfigError(f"Illegal client matching pattern: {pattern}: {error}") from None


def _metrics(name: str, type_: ConfigType, default: str, validate: Validator | None, doc: str) -> ConfigDef:
    return ConfigDef(name, type_, default, validate, Effect.ACCEPTED, doc)


CLIENT_METRICS_CONFIGS: dict[str, ConfigDef] = by_name(
    (
        _metrics("interval.ms", _INT, "300000", _check_interval, "How often clients push their metrics."),
        _metrics("match", _LIST, "", _check_match, "Which clients: a list of key=expression."),
        _metrics("metrics", _LIST, "", None, "Prefixes of the metrics that are asked for."),
    )
)
