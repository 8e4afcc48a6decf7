"""The tables agree with Apache Kafka 4.3.1 in names, types, defaults, synonyms and what can be changed."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest

from broker.config.broker_config import BrokerConfig
from broker.config.broker_definitions import BROKER_CONFIGS
from broker.config.definition import ConfigError, Effect, Update
from broker.config.describe import documentation
from broker.config.group_definitions import CLIENT_METRICS_CONFIGS, GROUP_CONFIGS
from broker.config.topic_config import TopicConfig, validate_topic_configs
from broker.config.topic_definitions import TOPIC_CONFIGS
from tests.broker.config.kafka_facts import FACTS

DOCS = Path(__file__).parents[3] / "docs"


TOPIC_CONFIGS_OF_KAFKA = sorted(name for name in TOPIC_CONFIGS if not name.startswith("tailrace."))


def test_every_topic_config_of_kafka_is_defined_and_besides_only_ours() -> None:
    assert set(TOPIC_CONFIGS_OF_KAFKA) == set(FACTS["topic"])


@pytest.mark.parametrize("name", TOPIC_CONFIGS_OF_KAFKA)
def test_a_topic_config_has_the_type_the_default_and_the_synonym_it_has_in_kafka(name: str) -> None:
    definition, fact = TOPIC_CONFIGS[name], FACTS["topic"][name]
    assert (definition.type, definition.default) == (fact["type"], fact["default"])
    if fact["synonyms"]:
        assert [definition.synonym] == fact["synonyms"]
    if definition.synonym is not None:
        assert definition.synonym in BROKER_CONFIGS


CHANGED_OTHERWISE = {
    "listeners",  # cannot be changed while this broker runs
    "auto.leader.rebalance.enable",  # can: in an incident nobody wants to restart brokers to have nothing moved
}


@pytest.mark.parametrize("name", sorted(name for name in BROKER_CONFIGS if not name.startswith("tailrace.")))
def test_a_broker_config_has_the_type_the_default_and_the_mutability_it_has_in_kafka(name: str) -> None:
    definition, fact = BROKER_CONFIGS[name], FACTS["broker"][name]
    assert definition.type == fact["type"]
    if name not in CHANGED_OTHERWISE:
        assert (definition.update is Update.READ_ONLY) == fact["read_only"]
    if fact["default"] is not None:
        assert definition.default == fact["default"]


@pytest.mark.parametrize(("table", "facts"), [(GROUP_CONFIGS, "group"), (CLIENT_METRICS_CONFIGS, "client-metrics")])
def test_configs_of_groups_and_client_metrics_are_those_of_kafka(table: typing.Any, facts: str) -> None:
    assert {name: (each.type, each.default) for name, each in table.items()} == {
        name: (fact["type"], fact["default"]) for name, fact in FACTS[facts].items()
    }


@pytest.mark.parametrize("name", TOPIC_CONFIGS_OF_KAFKA)
def test_a_value_is_accepted_exactly_if_kafka_accepts_it(name: str) -> None:
    broker = BrokerConfig()
    for text in FACTS["topic_values"][name]["accepted"]:
        validate_topic_configs({name: text}, broker)
    for text in FACTS["topic_values"][name]["refused"]:
        with pytest.raises(ConfigError):
            validate_topic_configs({name: text}, broker)


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ({"retention.ms": "-2"}, "Invalid value -2 for configuration retention.ms: Value must be at least -1"),
        ({"retention.ms": "1.5"}, "Invalid value 1.5 for configuration retention.ms: Not a number of type LONG"),
        ({"retention.ms": "٣"}, "Invalid value ٣ for configuration retention.ms: Not a number of type LONG"),
        ({"retention.ms": "9" * 5000}, "Not a number of type LONG"),
        ({"segment.bytes": "2147483648"}, "Not a number of type INT"),
        ({"min.cleanable.dirty.ratio": "nan"}, "Not a number of type DOUBLE"),
        ({"preallocate": "yes"}, "Expected value to be either true or false"),
        ({"cleanup.policy": "compact,,"}, "Configuration 'cleanup.policy' values must not be empty."),
        ({"cleanup.policy": "delete,zip"}, "Invalid value zip for configuration cleanup.policy: String must be one of"),
        ({"nope": "1"}, "Unknown topic config name: nope"),
        (
            {"min.compaction.lag.ms": "10", "max.compaction.lag.ms": "5"},
            "conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)",
        ),
        ({"remote.storage.enable": "true"}, "Tiered Storage functionality is disabled in the broker."),
    ],
)
def test_a_refusal_has_kafkas_words(configs: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_topic_configs(configs, BrokerConfig())
    assert message in str(caught.value)


def test_every_topic_config_is_a_typed_attribute() -> None:
    assert {field.name for field in dataclasses.fields(TopicConfig)} == {
        each.attribute for each in TOPIC_CONFIGS.values()
    }


def test_every_declared_attribute_of_broker_config_is_a_config() -> None:
    attributes = {each.attribute for each in BROKER_CONFIGS.values()}
    assert set(BrokerConfig.__annotations__) <= attributes


def test_every_config_says_what_it_is_and_what_is_different_here() -> None:
    for definition in (*TOPIC_CONFIGS.values(), *BROKER_CONFIGS.values(), *GROUP_CONFIGS.values()):
        assert definition.doc.endswith(".")
    for definition in TOPIC_CONFIGS.values():
        assert definition.effect is Effect.HONOURED or definition.note


def _rows(page: str) -> list[str]:
    return [line for line in (DOCS / page).read_text().splitlines() if line.startswith("| `")]


def test_the_page_on_topic_configs_says_what_the_table_says() -> None:
    assert _rows("topic-configs.md") == [
        f"| `{name}` | {each.default or '(empty)'} | {each.effect.value} | {documentation(each)} |"
        for name, each in sorted(TOPIC_CONFIGS.items())
    ]


def test_the_page_on_broker_configs_says_what_the_table_says() -> None:
    assert _rows("broker-configs.md") == [
        f"| `{name}` | {each.default or ''} | {each.update.value} | {each.effect.value} | {each.doc} |"
        for name, each in sorted(BROKER_CONFIGS.items())
    ]
