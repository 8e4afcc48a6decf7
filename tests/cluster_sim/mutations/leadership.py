"""Partitions that move from one broker to another."""

from __future__ import annotations

from typing import Any

import broker.handoff.mover
import broker.partition.opening
from broker.handoff.mover import Mover
from broker.handoff.parking import Parking
from broker.partition.opening import RecoveredState
from broker.partition.producer_state import ProducerStates
from broker.partitions import Partitions
from s3stream.catalog.api import CatalogError
from s3stream.storage import S3Storage
from tests.cluster_sim import schedules
from tests.cluster_sim.mutations.registry import SHARED, Change, mutation, nothing, nothing_async
from tests.cluster_sim.world import Focus


@mutation(
    "producers-forgotten",
    "a new leader does not know what producers have sent before",
    Focus(("kill", "reset", "move")),
)
def _producers_forgotten() -> list[Change]:
    original = broker.partition.opening.recover_state

    async def recover_state(log_stream: Any, state_stream: Any) -> RecoveredState:
        found = await original(log_stream, state_stream)
        return RecoveredState(found.leader_epochs, ProducerStates(), found.snapshot_offset, found.replayed_size)

    return [(broker.partition.opening, "recover_state", recover_state)]


@mutation(
    "handed-over-before-uploaded",
    "a partition is handed over while its tail is in the log only",
    Focus(("move", "stop")),
)
def _handed_over_before_uploaded() -> list[Change]:
    return [(S3Storage, "upload_now", nothing_async), (broker.handoff.mover, "_is_committed", lambda partition: True)]


@mutation(
    "not-held-while-handed-over", "a partition that is being handed over still accepts batches", Focus(("move", "stop"))
)
def _not_held_while_handed_over() -> list[Change]:
    return [(Partitions, "hold", nothing), (broker.handoff.mover, "_is_committed", lambda partition: True)]


@mutation(
    "goes-on-without-asking",
    "a partition goes on here although the catalog did not say whether it is gone",
    SHARED,
    schedules.answer_to_handing_over_is_late,
)
def _goes_on_without_asking() -> list[Change]:
    original = Mover._switch

    async def switch(self: Mover, held: Any, moves: Any) -> None:
        hand_over = self._catalog.hand_over

        async def once(*args: Any) -> Any:
            try:
                return await hand_over(*args)
            except CatalogError:
                return {}

        self._hand_over = lambda ready: once(  # type: ignore[method-assign]
            self._node_id, self._broker_epoch, _by_topic(ready)
        )
        await original(self, held, moves)

    return [(Mover, "_switch", switch)]


def _by_topic(keys: Any) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = {}
    for topic_id, index in keys:
        found.setdefault(topic_id, []).append(index)
    return found


@mutation(
    "park-forgotten",
    "requests that wait for a partition on its way are not called",
    Focus(("move", "stop"), is_calm=True),
)
def _park_forgotten() -> list[Change]:
    return [(Parking, "release", nothing)]


@mutation(
    "partition-stays",
    "a broker goes on with a partition that the catalog has given to another one",
    SHARED,
    schedules.moved_there_and_back,
)
def _partition_stays() -> list[Change]:
    return [
        (Partitions, "_topic_changed", lambda self, topic: any(self._is_missing(topic, p) for p in topic.partitions))
    ]
