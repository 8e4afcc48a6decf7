"""A broker that stops gives away everything it leads first, to brokers that are alive and stay.

It plans the moves, as anybody may, and hands over as it always does (`Mover`). It gives up when there is nobody to give
to or time is over: then the usual stop makes what is left free to be claimed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import structlog

from broker.cluster.image import MetadataImage
from broker.cluster.placement import count_leaders, place_leader
from s3stream.catalog.api import BrokerUnavailable, Catalog, CatalogError

log = structlog.get_logger()

LEAVE_MAX_S = 20.0
LOOK_INTERVAL_S = 0.1
"""Between two looks at what is still led here, if nothing tells of a change."""


async def leave(
    node_id: int,
    broker_epoch: int,
    catalog: Catalog,
    image: MetadataImage,
    has_failed: Callable[[], bool],
) -> None:
    """Returns when nothing is led here any more, or nothing can be done about it: one that `has_failed` hands nothing
    over, and keeps its partitions from others for as long as it stays."""
    changed = asyncio.Event()
    unsubscribe = image.subscribe(lambda _: changed.set())
    try:
        async with asyncio.timeout(LEAVE_MAX_S):
            if _plan(node_id, image) is None:
                return
            await catalog.leave(node_id, broker_epoch)
            await image.refresh()
            while _leads_anything(node_id, image) and not has_failed():
                changed.clear()
                targets = _plan(node_id, image)
                if targets is None:
                    return
                if targets:
                    with suppress(BrokerUnavailable):
                        await catalog.set_targets(targets)
                    await image.refresh()
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), LOOK_INTERVAL_S)
    except TimeoutError:
        log.warning("stopping although other brokers did not take everything in time")
    except CatalogError as error:
        log.warning("stopping without handing over: catalog unreachable", error=str(error))
    finally:
        unsubscribe()


def _leads_anything(node_id: int, image: MetadataImage) -> bool:
    return any(each.leader == node_id for topic in image.topics() for each in topic.partitions)


def _plan(node_id: int, image: MetadataImage) -> dict[UUID, dict[int, int | None]] | None:
    """Targets for what has none that stays; None: there is nobody to give to."""
    staying = [each.node_id for each in image.receivers() if each.node_id != node_id]
    if not staying:
        return None
    loads = count_leaders(image.topics())
    targets: dict[UUID, dict[int, int | None]] = {}
    for topic in image.topics():
        for partition in topic.partitions:
            if partition.leader == node_id and partition.target not in staying:
                heir = place_leader(partition.replicas, staying, loads)
                loads[heir] += 1
                targets.setdefault(topic.topic_id, {})[partition.index] = heir
    return targets
