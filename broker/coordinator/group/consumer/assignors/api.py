"""What a server-side assignor is given and gives back. Pure and deterministic: the same input, in any order, is the
same answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from broker.coordinator.group.consumer.values import Assignment


class Subscriber(NamedTuple):
    """`topic_ids` exist; `target` is what it should have had so far."""

    instance_id: str | None
    topic_ids: frozenset[bytes]
    target: Assignment


class Assignor(Protocol):
    name: str

    def assign(
        self, members: Mapping[str, Subscriber], partition_counts: Mapping[bytes, int]
    ) -> dict[str, dict[bytes, frozenset[int]]]:
        """Every partition of every topic that somebody is subscribed to, to exactly one of its subscribers."""
