"""DescribeConfigs, AlterConfigs, IncrementalAlterConfigs, ListConfigResources: codes and words are Kafka 4.3.1's."""

from __future__ import annotations

from typing import Any

import pytest

from broker.cluster.topics import TopicSpec
from broker.config.topic_definitions import TOPIC_CONFIGS
from broker.handlers import alter_configs, describe_configs, incremental_alter_configs, list_config_resources
from protocol.errors import ErrorCode
from protocol.messages import alter_configs as replace_messages
from protocol.messages import incremental_alter_configs as alter_messages
from protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResult,
)
from protocol.messages.list_config_resources import ListConfigResourcesRequest
from tests.broker.cluster.cluster import Cluster
from tests.broker.config.kafka_facts import FACTS

TOPIC, BROKER, LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
SET, DELETE, APPEND, SUBTRACT = 0, 1, 2, 3

Outcome = tuple[ErrorCode, str | None]


async def _alter(
    node: Cluster, kind: int, name: str, *operations: tuple[str, int, str | None], validate_only: bool = False
) -> Outcome:
    configs = [
        alter_messages.AlterableConfig(name=key, config_operation=operation, value=value)
        for key, operation, value in operations
    ]
    resource = alter_messages.AlterConfigsResource(resource_type=kind, resource_name=name, configs=configs)
    request = alter_messages.IncrementalAlterConfigsRequest(resources=[resource], validate_only=validate_only)
    (response,) = (await node.ask(incremental_alter_configs, 1, request)).responses
    assert (response.resource_type, response.resource_name) == (kind, name)
    return ErrorCode(response.error_code), response.error_message


async def _replace(node: Cluster, kind: int, name: str, *values: tuple[str, str | None]) -> Outcome:
    configs = [replace_messages.AlterableConfig(name=key, value=value) for key, value in values]
    resource = replace_messages.AlterConfigsResource(resource_type=kind, resource_name=name, configs=configs)
    (response,) = (
        await node.ask(alter_configs, 2, replace_messages.AlterConfigsRequest(resources=[resource]))
    ).responses
    return ErrorCode(response.error_code), response.error_message


async def _describe(
    node: Cluster, kind: int, name: str, keys: list[str] | None = None, version: int = 4, **fields: Any
) -> DescribeConfigsResult:
    resource = DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=keys)
    response = await node.ask(describe_configs, version, DescribeConfigsRequest(resources=[resource], **fields))
    (result,) = response.results
    assert isinstance(result, DescribeConfigsResult)
    return result


def _by_name(result: DescribeConfigsResult) -> dict[str, DescribeConfigsResourceResult]:
    return {each.name: each for each in result.configs}


# -- describe ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", range(describe_configs.MIN_VERSION, describe_configs.MAX_VERSION + 1))
async def test_an_untouched_topic_is_described_as_kafka_does(node: Cluster, version: int) -> None:
    await node.topics.create(TopicSpec("t"))
    result = await _describe(node, TOPIC, "t", version=version, include_synonyms=True)
    assert (result.error_code, result.error_message) == (ErrorCode.NONE, "")
    described = _by_name(result)
    assert {name for name in described if not name.startswith("tailrace.")} == set(FACTS["topic"])
    for name, fact in FACTS["topic"].items():
        entry = described[name]
        assert (entry.value, entry.config_source, entry.read_only, entry.is_sensitive) == (
            fact["default"],
            5,
            False,
            False,
        )
        assert [each.name for each in entry.synonyms] == fact["synonyms"]
        if version >= 3:
            assert entry.config_type == fact["type"]
            assert entry.documentation is None


async def test_documentation_and_synonyms_come_only_when_asked_for(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t"))
    bare = _by_name(await _describe(node, TOPIC, "t", ["max.message.bytes"]))["max.message.bytes"]
    assert (bare.synonyms, bare.documentation) == ([], None)
    full = _by_name(
        await _describe(node, TOPIC, "t", ["max.message.bytes"], include_synonyms=True, include_documentation=True)
    )["max.message.bytes"]
    assert len(full.synonyms) == 1
    assert full.documentation


async def test_only_the_names_asked_for_are_described_and_an_empty_list_means_all(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t"))
    assert list(_by_name(await _describe(node, TOPIC, "t", ["retention.ms", "nope"]))) == ["retention.ms"]
    assert len((await _describe(node, TOPIC, "t", [])).configs) == len(TOPIC_CONFIGS)


NOT_DESCRIBED: list[tuple[int, str, ErrorCode, str]] = [
    (TOPIC, "nope", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ""),
    (TOPIC, "a b", ErrorCode.INVALID_TOPIC_EXCEPTION, "Topic name is invalid: 'a b' contains"),
    (TOPIC, "", ErrorCode.INVALID_TOPIC_EXCEPTION, "Topic name is invalid: the empty string is not allowed"),
    (BROKER, "2", ErrorCode.INVALID_REQUEST, "Unexpected broker id, expected 1 or empty string, but received 2"),
    (BROKER, "x", ErrorCode.INVALID_REQUEST, "Broker id must be an integer, but it is: x"),
    (LOGGER, "", ErrorCode.INVALID_REQUEST, "Broker id must not be empty"),
    (LOGGER, "2", ErrorCode.INVALID_REQUEST, "Unexpected broker id, expected 1 but received 2"),
    (CLIENT_METRICS, "", ErrorCode.INVALID_REQUEST, "Client metrics subscription name must not be empty"),
    (GROUP, "", ErrorCode.INVALID_REQUEST, "Group name must not be empty"),
    (99, "x", ErrorCode.INVALID_REQUEST, "Unknown resource type 99"),
]


async def test_what_cannot_be_described_has_kafkas_error(node: Cluster) -> None:
    for kind, name, code, message in NOT_DESCRIBED:
        result = await _describe(node, kind, name)
        assert (result.error_code, result.configs) == (code, []), (kind, name)
        assert (result.error_message or "").startswith(message), (kind, name)


async def test_brokers_groups_and_subscriptions_are_described(node: Cluster) -> None:
    broker = _by_name(await _describe(node, BROKER, "1", include_synonyms=True))
    assert broker["num.partitions"].read_only
    assert broker["num.partitions"].value == "1"
    assert not broker["message.max.bytes"].read_only
    assert (await _describe(node, BROKER, "")).configs == []
    assert set(_by_name(await _describe(node, GROUP, "g"))) == set(FACTS["group"])
    assert set(_by_name(await _describe(node, CLIENT_METRICS, "m"))) == set(FACTS["client-metrics"])


# -- alter ------------------------------------------------------------------------------------------------------------
async def test_single_configs_are_set_and_deleted(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t", configs={"flush.ms": "9"}))
    assert await _alter(node, TOPIC, "t", ("retention.ms", SET, "5000"), ("flush.ms", DELETE, None)) == (0, None)
    assert node.image.topic_config("t").retention_ms == 5000
    entry = _by_name(await _describe(node, TOPIC, "t", ["retention.ms"], include_synonyms=True))["retention.ms"]
    assert (entry.value, entry.config_source) == ("5000", 1)
    topic = node.image.topic("t")
    assert topic is not None
    assert topic.configs == {"retention.ms": "5000"}


async def test_lists_are_appended_to_and_subtracted_from(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t"))
    assert await _alter(node, TOPIC, "t", ("cleanup.policy", APPEND, "compact")) == (0, None)
    assert node.image.topic_config("t").cleanup_policy == ("delete", "compact")
    assert await _alter(node, TOPIC, "t", ("cleanup.policy", APPEND, "compact")) == (0, None)
    assert await _alter(node, TOPIC, "t", ("cleanup.policy", SUBTRACT, "delete")) == (0, None)
    assert node.image.topic_config("t").cleanup_policy == ("compact",)


async def test_validating_only_changes_nothing(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t"))
    assert await _alter(node, TOPIC, "t", ("retention.ms", SET, "5"), validate_only=True) == (0, None)
    assert node.image.topic_config("t").retention_ms == 604800000


async def test_replacing_unsets_what_is_not_named(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t", configs={"flush.ms": "9", "retention.ms": "7"}))
    assert await _replace(node, TOPIC, "t", ("flush.ms", "10")) == (0, None)
    topic = node.image.topic("t")
    assert topic is not None
    assert topic.configs == {"flush.ms": "10"}


OUTCOMES: list[tuple[int, str, list[tuple[str, int, str | None]], ErrorCode, str | None]] = [
    (TOPIC, "t", [("nope", SET, "1")], ErrorCode.INVALID_CONFIG, "Unknown topic config name: nope"),
    (TOPIC, "t", [("nope", DELETE, None)], ErrorCode.NONE, None),
    (
        TOPIC,
        "t",
        [("retention.ms", APPEND, "5")],
        ErrorCode.INVALID_CONFIG,
        "Can't APPEND to key retention.ms because its type is not LIST.",
    ),
    (
        TOPIC,
        "t",
        [("retention.ms", SUBTRACT, "5")],
        ErrorCode.INVALID_CONFIG,
        "Can't SUBTRACT to key retention.ms because its type is not LIST.",
    ),
    (
        TOPIC,
        "t",
        [("retention.ms", SET, None)],
        ErrorCode.INVALID_REQUEST,
        "Null value not supported for : retention.ms",
    ),
    (TOPIC, "t", [("retention.ms", 9, "5")], ErrorCode.INVALID_REQUEST, "Unknown operation 9 for retention.ms"),
    (
        TOPIC,
        "t",
        [("retention.ms", SET, "5"), ("retention.ms", SET, "6")],
        ErrorCode.INVALID_REQUEST,
        "Error due to duplicate config keys",
    ),
    (
        TOPIC,
        "nope",
        [("retention.ms", SET, "5")],
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        "The topic 'nope' does not exist.",
    ),
    (
        TOPIC,
        "",
        [("retention.ms", SET, "5")],
        ErrorCode.INVALID_REQUEST,
        "Default topic resources are not allowed.",
    ),
    (
        BROKER,
        "",
        [("num.partitions", SET, "5")],
        ErrorCode.INVALID_REQUEST,
        "Cannot update these configs dynamically: [num.partitions]",
    ),
    (
        BROKER,
        "1",
        [("log.retention.ms", SET, "abc")],
        ErrorCode.INVALID_REQUEST,
        "Invalid value abc for configuration log.retention.ms: Not a number of type LONG",
    ),
    (BROKER, "1", [("some.plugin.config", SET, "5")], ErrorCode.NONE, None),
    (
        BROKER,
        "9",
        [("log.retention.ms", SET, "5")],
        ErrorCode.INVALID_REQUEST,
        "Unexpected broker id, expected 1, but received 9",
    ),
    (
        BROKER,
        "x",
        [("log.retention.ms", SET, "5")],
        ErrorCode.INVALID_REQUEST,
        "Node id must be an integer, but it is: x",
    ),
    (GROUP, "g", [("nope", SET, "5")], ErrorCode.INVALID_CONFIG, "Unknown group config name: nope"),
    (
        GROUP,
        "",
        [("consumer.session.timeout.ms", SET, "50000")],
        ErrorCode.INVALID_REQUEST,
        "Default group resources are not allowed.",
    ),
    (
        CLIENT_METRICS,
        "m",
        [("match", SET, "foo")],
        ErrorCode.INVALID_CONFIG,
        "Illegal client matching pattern: foo",
    ),
    (
        CLIENT_METRICS,
        "",
        [("interval.ms", SET, "500")],
        ErrorCode.INVALID_REQUEST,
        "Subscription name can't be empty",
    ),
    (LOGGER, "1", [("root", SET, "INFO")], ErrorCode.INVALID_REQUEST, None),
    (99, "x", [("a", SET, "1")], ErrorCode.INVALID_REQUEST, "Unknown resource type 99"),
]


async def test_a_change_has_kafkas_outcome(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t"))
    for kind, name, operations, code, message in OUTCOMES:
        outcome, told = await _alter(node, kind, name, *operations)
        assert outcome == code, (kind, name, operations)
        if message is not None:
            assert told == message, (kind, name, operations)


async def test_a_broker_config_takes_effect_and_shows_where_it_comes_from(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t"))
    assert await _alter(node, BROKER, "", ("message.max.bytes", SET, "2000000")) == (0, None)
    assert await _alter(node, BROKER, "1", ("message.max.bytes", SET, "3000000")) == (0, None)
    assert node.config.message_max_bytes == 3000000
    for kind, name, key in ((TOPIC, "t", "max.message.bytes"), (BROKER, "1", "message.max.bytes")):
        entry = _by_name(await _describe(node, kind, name, [key], include_synonyms=True))[key]
        assert (entry.value, entry.config_source) == ("3000000", 2)
        assert [(each.name, each.value, each.source) for each in entry.synonyms] == [
            ("message.max.bytes", "3000000", 2),
            ("message.max.bytes", "2000000", 3),
            ("message.max.bytes", "1048588", 5),
        ]
    assert await _alter(node, BROKER, "1", ("message.max.bytes", DELETE, None)) == (0, None)
    assert node.config.message_max_bytes == 2000000


async def test_a_resource_named_twice_is_refused_and_others_are_changed(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t"))
    await node.topics.create(TopicSpec("u"))

    def resource(name: str) -> alter_messages.AlterConfigsResource:
        config = alter_messages.AlterableConfig(name="retention.ms", config_operation=SET, value="5")
        return alter_messages.AlterConfigsResource(resource_type=TOPIC, resource_name=name, configs=[config])

    request = alter_messages.IncrementalAlterConfigsRequest(resources=[resource("t"), resource("u"), resource("t")])
    responses = (await node.ask(incremental_alter_configs, 0, request)).responses
    assert [each.error_code for each in responses] == [ErrorCode.INVALID_REQUEST, 0, ErrorCode.INVALID_REQUEST]
    assert responses[0].error_message == "Each resource must appear at most once."
    assert node.image.topic_config("t").retention_ms == 604800000
    assert node.image.topic_config("u").retention_ms == 5


# -- list -------------------------------------------------------------------------------------------------------------
async def test_resources_are_listed_by_type(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t"))
    await _alter(node, GROUP, "g", ("consumer.session.timeout.ms", SET, "50000"))
    await _alter(node, CLIENT_METRICS, "m", ("interval.ms", SET, "500"))

    async def ask(version: int, *kinds: int) -> tuple[int, list[tuple[int, str]]]:
        response = await node.ask(list_config_resources, version, ListConfigResourcesRequest(resource_types=[*kinds]))
        return response.error_code, [(each.resource_type, each.resource_name) for each in response.config_resources]

    everything = [(TOPIC, "t"), (BROKER, "1"), (LOGGER, "1"), (CLIENT_METRICS, "m"), (GROUP, "g")]
    assert await ask(1) == (0, everything)
    for each in everything:
        assert await ask(1, each[0]) == (0, [each])
    assert await ask(1, TOPIC, 99) == (ErrorCode.UNSUPPORTED_VERSION, [])
    assert await ask(0) == (0, [(CLIENT_METRICS, "m")])
