"""The settings of consumer groups: those of the broker, and what single groups have set for themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.config.broker_config import BrokerConfig

GroupOverrides = Callable[[str], Mapping[str, str]]
"""Group id -> the configs that are set on it, by Kafka's names. Values are valid."""

SESSION_TIMEOUT = "consumer.session.timeout.ms"
HEARTBEAT_INTERVAL = "consumer.heartbeat.interval.ms"
ASSIGNMENT_INTERVAL = "consumer.assignment.interval.ms"

_NO_OVERRIDES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Interval:
    """A group's own value is kept within the broker's bounds."""

    default: int
    lowest: int
    highest: int


@dataclass(frozen=True, slots=True)
class ConsumerGroupConfig:
    """Times in ms."""

    session_timeout: Interval = Interval(45_000, 45_000, 60_000)
    heartbeat_interval: Interval = Interval(5_000, 5_000, 15_000)
    assignment_interval: Interval = Interval(1_000, 0, 15_000)
    assignment_interval_default: Callable[[], int] | None = None
    """Takes the place of the default above: it can change while the broker runs."""
    size_max: int = 2**31 - 1
    assignors: tuple[str, ...] = ("uniform", "range")
    """The first one is taken where the members have no wish."""
    upgrade: bool = True
    """Whether a classic group of consumers turns into a consumer group when a member of the new protocol joins."""
    downgrade: bool = True
    """Whether a consumer group turns into a classic one when its last member of the new protocol goes."""
    overrides: GroupOverrides = lambda _: _NO_OVERRIDES

    def session_timeout_ms(self, group_id: str) -> int:
        return self._of(group_id, SESSION_TIMEOUT, self.session_timeout)

    def heartbeat_interval_ms(self, group_id: str) -> int:
        return self._of(group_id, HEARTBEAT_INTERVAL, self.heartbeat_interval)

    def assignment_interval_ms(self, group_id: str) -> int:
        """The least time between two assignments of a group."""
        default = self.assignment_interval_default
        if default is not None and ASSIGNMENT_INTERVAL not in self.overrides(group_id):
            return default()
        return self._of(group_id, ASSIGNMENT_INTERVAL, self.assignment_interval)

    def _of(self, group_id: str, name: str, interval: Interval) -> int:
        text = self.overrides(group_id).get(name)
        if text is None:
            return interval.default
        return min(max(int(text), interval.lowest), interval.highest)

    @staticmethod
    def from_broker(config: BrokerConfig, overrides: GroupOverrides) -> ConsumerGroupConfig:
        policy = config.group_consumer_migration_policy.lower()
        return ConsumerGroupConfig(
            session_timeout=Interval(
                config.group_consumer_session_timeout_ms,
                config.group_consumer_min_session_timeout_ms,
                config.group_consumer_max_session_timeout_ms,
            ),
            heartbeat_interval=Interval(
                config.group_consumer_heartbeat_interval_ms,
                config.group_consumer_min_heartbeat_interval_ms,
                config.group_consumer_max_heartbeat_interval_ms,
            ),
            assignment_interval=Interval(
                config.group_consumer_assignment_interval_ms,
                config.group_consumer_min_assignment_interval_ms,
                config.group_consumer_max_assignment_interval_ms,
            ),
            assignment_interval_default=lambda: config.group_consumer_assignment_interval_ms,
            size_max=config.group_consumer_max_size,
            assignors=config.group_consumer_assignors,
            upgrade=policy in ("bidirectional", "upgrade"),
            downgrade=policy in ("bidirectional", "downgrade"),
            overrides=overrides,
        )
