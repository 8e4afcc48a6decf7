"""`tailrace topics`: list, create, describe, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from broker.cli.errors import CommandError
from broker.cli.output import Json, show
from broker.cli.targets import DEFAULT_BOOTSTRAP, Bootstrap, TopicName

if TYPE_CHECKING:
    from broker.cli.client import Client

app = typer.Typer(name="topics", help="List, create, describe and delete topics.", no_args_is_help=True)

_BROKER_DEFAULT = -1
_TOPIC_RESOURCE = 2
_DEFAULT_CONFIG = 5
"""DescribeConfigs' source of a value that nobody has set."""


@app.command("list")
def list_topics(
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    internal: Annotated[bool, typer.Option("--internal", help="Include internal topics.")] = False,
    json: Json = False,
) -> None:
    """List the topics of the cluster."""
    from broker.cli.client import Client

    with Client(bootstrap) as client:
        topics = client.metadata(None).topics
    rows = [
        (topic.name, len(topic.partitions), len(topic.partitions[0].replica_nodes) if topic.partitions else 0)
        for topic in sorted(topics, key=lambda topic: topic.name or "")
        if internal or not topic.is_internal
    ]
    show(("topic", "partitions", "replication_factor"), rows, json)


@app.command()
def create(
    name: TopicName,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    partitions: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Default: num.partitions of the broker.")
    ] = None,
    replication_factor: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Recorded; durability is the object store's.")
    ] = None,
    config: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Topic config; may be repeated.")
    ] = None,
    json: Json = False,
) -> None:
    """Create a topic."""
    from broker.cli.client import Client, check
    from protocol.messages.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest

    configs = []
    for item in config or []:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise CommandError(f"--config: {item!r} is not KEY=VALUE", exit_code=2)
        configs.append(CreatableTopicConfig(name=key, value=value))
    topic = CreatableTopic(
        name=name,
        num_partitions=partitions or _BROKER_DEFAULT,
        replication_factor=replication_factor or _BROKER_DEFAULT,
        configs=configs,
    )
    with Client(bootstrap) as client:
        result = client.send(CreateTopicsRequest(topics=[topic], timeout_ms=30_000)).topics[0]
    check(result.error_code, f"cannot create topic {name}", result.error_message)
    show(
        ("topic", "partitions", "replication_factor", "topic_id"),
        [(name, result.num_partitions, result.replication_factor, str(UUID(bytes=result.topic_id)))],
        json,
    )


@app.command()
def describe(
    name: TopicName,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    configs: Annotated[bool, typer.Option("--configs", help="Show its configs instead of its partitions.")] = False,
    json: Json = False,
) -> None:
    """Show a topic's partitions with their offsets, or its configs."""
    from broker.cli.client import Client

    with Client(bootstrap) as client:
        if configs:
            show(("config", "value", "is_default"), _config_rows(client, name), json)
        else:
            columns = ("partition", "leader", "leader_epoch", "replicas", "start_offset", "end_offset")
            show(columns, _partition_rows(client, name), json)


@app.command()
def delete(name: TopicName, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> None:
    """Delete a topic and its records."""
    from broker.cli.client import Client, check
    from protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState

    request = DeleteTopicsRequest(topics=[DeleteTopicState(name=name)], topic_names=[name], timeout_ms=30_000)
    with Client(bootstrap) as client:
        result = client.send(request).responses[0]
    check(result.error_code, f"cannot delete topic {name}", result.error_message)


def _partition_rows(client: Client, name: str) -> list[tuple[Any, ...]]:
    from broker.cli.client import check
    from broker.cli.offsets import EARLIEST, LATEST, list_offsets

    metadata = client.metadata([name])
    topic = metadata.topics[0]
    check(topic.error_code, f"cannot describe topic {name}")
    wanted = {name: [partition.partition_index for partition in topic.partitions]}
    starts = list_offsets(client, metadata, wanted, EARLIEST)
    ends = list_offsets(client, metadata, wanted, LATEST)
    return [
        (
            partition.partition_index,
            partition.leader_id if partition.leader_id >= 0 else None,
            partition.leader_epoch,
            partition.replica_nodes,
            starts.get((name, partition.partition_index)),
            ends.get((name, partition.partition_index)),
        )
        for partition in sorted(topic.partitions, key=lambda partition: partition.partition_index)
    ]


def _config_rows(client: Client, name: str) -> list[tuple[Any, ...]]:
    from broker.cli.client import check
    from protocol.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource

    resource = DescribeConfigsResource(resource_type=_TOPIC_RESOURCE, resource_name=name, configuration_keys=None)
    result = client.send(DescribeConfigsRequest(resources=[resource])).results[0]
    check(result.error_code, f"cannot describe topic {name}", result.error_message)
    return [(config.name, config.value, config.config_source == _DEFAULT_CONFIG) for config in result.configs]
