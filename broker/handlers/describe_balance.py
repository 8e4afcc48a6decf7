"""DescribeBalance (20001, of tailrace): the brokers, their load, what moves and what would be moved next.

v0. For `tailrace brokers`. What is planned is worked out anew, from what the brokers say now; at the broker that
balances it is what it will do, unless the load changes before it has lasted for a while.
"""

from __future__ import annotations

from broker.balance.balancer import Picture
from broker.balance.model import Move
from broker.cluster.placement import count_leaders
from broker.request import RequestContext
from broker.services import Services
from protocol.messages.describe_balance import (
    BalancedBroker,
    DescribeBalanceRequest,
    DescribeBalanceResponse,
    PartitionMove,
)
from protocol.private_keys import PrivateApiKey
from s3stream.catalog.api import BrokerInfo

API_KEY = PrivateApiKey.DESCRIBE_BALANCE
MIN_VERSION = 0
MAX_VERSION = 0


async def handle(services: Services, ctx: RequestContext, request: DescribeBalanceRequest) -> DescribeBalanceResponse:
    image, balancer = services.image, services.balancer
    picture = await balancer.look()
    planned = await balancer.plan(picture)
    return DescribeBalanceResponse(
        throttle_time_ms=ctx.throttle_time_ms,
        balancer_id=image.controller_id,
        enabled=balancer.enabled,
        brokers=_brokers(services, picture),
        moving=_moving(services),
        planned=[_move(services, each) for each in planned],
    )


def _brokers(services: Services, picture: Picture) -> list[BalancedBroker]:
    image = services.image
    counts = count_leaders(image.topics())
    alive = {each.node_id for each in image.brokers()}
    brokers = []
    for info in image.registered_brokers():
        count = counts[info.node_id]
        broker = BalancedBroker(
            node_id=info.node_id,
            host=info.host,
            port=info.port,
            rack=info.rack,
            state=_state(info, info.node_id in alive, info.node_id in image.draining(), count),
            partition_count=count,
        )
        load = picture.loads.get(info.node_id)
        if load is not None:
            broker.bytes_in, broker.bytes_out = load.bytes_in, load.bytes_out
            broker.requests, broker.cpu = load.requests, load.cpu
        brokers.append(broker)
    return brokers


def _state(info: BrokerInfo, is_alive: bool, is_draining: bool, partition_count: int) -> str:
    if is_alive:
        if info.leaving:
            return "stopping"
        if not is_draining:
            return "active"
        return "draining" if partition_count else "drained"
    if info.closed:
        return "stopped"
    return "unreachable" if info.alive else "failed"


def _moving(services: Services) -> list[PartitionMove]:
    asked_for = services.balancer.asked_for
    moving = []
    for topic in services.image.topics():
        for info in topic.partitions:
            if info.target is None:
                continue
            move = asked_for.get((topic.topic_id, info.index))
            moving.append(
                PartitionMove(
                    topic_name=topic.name,
                    partition_index=info.index,
                    source_id=info.leader,
                    target_id=info.target,
                    reason=move.reason if move is not None and move.target == info.target else "",
                )
            )
    return moving


def _move(services: Services, move: Move) -> PartitionMove:
    topic = services.image.topic_by_id(move.topic_id.bytes)
    return PartitionMove(
        topic_name=topic.name if topic is not None else str(move.topic_id),
        partition_index=move.partition_index,
        source_id=move.source,
        target_id=move.target,
        reason=move.reason,
    )
