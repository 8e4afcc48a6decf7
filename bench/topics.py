"""Topics of scenarios, made as any client makes them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from broker.cli.client import Client, check
from protocol.messages.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest

PATIENCE_S = 60.0
LOOK_S = 0.05


def create_topics(
    client: Client,
    names: Sequence[str],
    partitions: int,
    *,
    replicas: int = 1,
    configs: Mapping[str, str] | None = None,
) -> None:
    """By one request, which is repeated as long as a cluster that has just started refuses it. Raises CommandError."""
    wanted = [
        CreatableTopic(
            name=name,
            num_partitions=partitions,
            replication_factor=replicas,
            configs=[CreatableTopicConfig(name=key, value=value) for key, value in (configs or {}).items()],
        )
        for name in names
    ]
    deadline = time.monotonic() + PATIENCE_S
    while True:
        answers = client.send(CreateTopicsRequest(topics=wanted, timeout_ms=30_000)).topics
        refused = {answer.name: answer for answer in answers if answer.error_code}
        if not refused:
            return
        if time.monotonic() > deadline:
            answer = next(iter(refused.values()))
            check(answer.error_code, f"topic {answer.name}", answer.error_message)
        wanted = [topic for topic in wanted if topic.name in refused]
        time.sleep(LOOK_S)


def wait_until_led(client: Client, names: Sequence[str] | None) -> None:
    """Until every partition of these topics, or of all, has a leader."""
    asked = None if names is None else list(names)
    while any(part.leader_id < 0 for topic in client.metadata(asked).topics for part in topic.partitions):
        time.sleep(LOOK_S)


def leaders(client: Client, topic: str) -> dict[int, int]:
    """Partition -> node id, of those that have one."""
    (described,) = client.metadata([topic]).topics
    return {each.partition_index: each.leader_id for each in described.partitions if each.leader_id >= 0}
