"""Where a value comes from: topic, dynamic broker, dynamic default, static, default; and how that is shown."""

from __future__ import annotations

import pytest

from broker.config.broker_config import BrokerConfig
from broker.config.definition import ConfigError, ConfigSource
from broker.config.describe import ConfigEntry, describe_broker, describe_cluster_default, describe_topic
from broker.config.topic_config import TopicConfig


def _entry(entries: list[ConfigEntry], name: str) -> ConfigEntry:
    return next(each for each in entries if each.name == name)


def _shown(entry: ConfigEntry) -> tuple[str | None, int, list[tuple[str, str | None, int]]]:
    return entry.value, entry.source, [(each.name, each.value, each.source) for each in entry.synonyms]


def test_broker_configs_have_kafkas_defaults_as_typed_attributes() -> None:
    config = BrokerConfig()
    assert config.num_partitions == 1
    assert config.auto_create_topics_enable is True
    assert config.log_cleanup_policy == ("delete",)
    assert config.offset_metadata_max_bytes == 4096
    assert config.message_max_bytes == 1048588
    assert config.log_retention_ms is None
    assert config.retention_ms == 7 * 24 * 3_600_000


def test_a_dynamic_value_goes_before_a_static_one_and_one_for_this_broker_before_one_for_all() -> None:
    config = BrokerConfig({"message.max.bytes": "1000"})
    assert config.message_max_bytes == 1000
    config.set_dynamic({"message.max.bytes": "2000"}, {})
    assert config.message_max_bytes == 2000
    config.set_dynamic({"message.max.bytes": "2000"}, {"message.max.bytes": "3000"})
    assert config.message_max_bytes == 3000
    config.set_dynamic({}, {})
    assert config.message_max_bytes == 1000


def test_a_read_only_config_cannot_be_overridden_dynamically() -> None:
    config = BrokerConfig({"num.partitions": "3"})
    config.set_dynamic({"num.partitions": "7"}, {})
    assert config.num_partitions == 3


def test_a_dynamic_value_that_does_not_parse_is_as_if_it_were_not_set() -> None:
    config = BrokerConfig()
    config.set_dynamic({"message.max.bytes": "2000"}, {"message.max.bytes": "many"})
    assert config.message_max_bytes == 2000


@pytest.mark.parametrize(
    ("static", "message"),
    [
        ({"num.partitions": "0"}, "Value must be at least 1"),
        ({"num.partitions": "x"}, "Not a number of type INT"),
        ({"num.partitoins": "3"}, "Unknown broker config name: num.partitoins"),
    ],
)
def test_a_bad_static_config_is_refused_by_name(static: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BrokerConfig(static)


@pytest.mark.parametrize(
    ("static", "retention_ms"),
    [
        ({"log.retention.hours": "2"}, 7_200_000),
        ({"log.retention.hours": "2", "log.retention.minutes": "3"}, 180_000),
        ({"log.retention.hours": "2", "log.retention.minutes": "3", "log.retention.ms": "5"}, 5),
        ({"log.retention.hours": "-1"}, -1),
        ({"log.retention.ms": "-1"}, -1),
    ],
)
def test_retention_takes_the_finest_unit_that_is_set(static: dict[str, str], retention_ms: int) -> None:
    broker = BrokerConfig(static)
    assert broker.retention_ms == retention_ms
    assert TopicConfig.resolve({}, broker).retention_ms == retention_ms


def test_a_topic_inherits_from_the_broker_what_it_does_not_set() -> None:
    broker = BrokerConfig({"message.max.bytes": "1000", "log.message.timestamp.type": "LogAppendTime"})
    topic = TopicConfig.resolve({"max.message.bytes": "500"}, broker)
    assert topic.max_message_bytes == 500
    assert topic.log_append_time
    assert topic.deletes
    assert not topic.compacts


def test_synonyms_list_every_place_a_value_could_come_from_strongest_first() -> None:
    broker = BrokerConfig()
    broker.set_dynamic({"log.retention.ms": "77777", "message.max.bytes": "2000000"}, {"message.max.bytes": "3000000"})
    entries = describe_topic({"flush.ms": "9"}, broker)
    assert _shown(_entry(entries, "max.message.bytes")) == (
        "3000000",
        ConfigSource.DYNAMIC_BROKER,
        [("message.max.bytes", "3000000", 2), ("message.max.bytes", "2000000", 3), ("message.max.bytes", "1048588", 5)],
    )
    assert _shown(_entry(entries, "retention.ms")) == (
        "77777",
        ConfigSource.DYNAMIC_DEFAULT_BROKER,
        [("log.retention.ms", "77777", 3), ("log.retention.hours", "168", 5)],
    )
    assert _shown(_entry(entries, "flush.ms")) == ("9", ConfigSource.TOPIC, [("flush.ms", "9", 1)])
    assert _shown(_entry(entries, "segment.ms")) == ("604800000", ConfigSource.DEFAULT, [])


def test_a_value_from_a_coarser_unit_is_shown_as_kafka_shows_it() -> None:
    broker = BrokerConfig({"log.retention.hours": "2"})
    assert _shown(_entry(describe_topic({}, broker), "retention.ms")) == ("7200000", ConfigSource.DEFAULT, [])


def test_the_cluster_default_shows_only_what_is_set_and_hides_values_it_does_not_know() -> None:
    broker = BrokerConfig()
    broker.set_dynamic({"log.retention.ms": "77777", "some.plugin.secret": "s"}, {})
    shown = {each.name: (_shown(each), each.read_only, each.sensitive) for each in describe_cluster_default(broker)}
    assert shown == {
        "log.retention.ms": (("77777", 3, [("log.retention.ms", "77777", 3)]), False, False),
        "some.plugin.secret": ((None, 3, [("some.plugin.secret", None, 3)]), True, True),
    }


def test_a_broker_shows_its_own_values() -> None:
    broker = BrokerConfig({"num.partitions": "4"})
    entry = _entry(describe_broker(broker), "num.partitions")
    assert _shown(entry) == ("4", ConfigSource.STATIC_BROKER, [("num.partitions", "4", 4), ("num.partitions", "1", 5)])
    assert entry.read_only
