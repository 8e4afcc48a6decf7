"""The transaction service over real partitions on fake streams, with its markers, asked as a client would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from broker import handlers
from broker.cluster.names import TRANSACTION_STATE
from broker.config.broker_config import BrokerConfig
from broker.coordinator.transaction.service import TransactionService
from broker.handlers import add_partitions_to_txn, end_txn, init_producer_id
from broker.server.dispatch import api_table
from protocol.errors import ErrorCode
from protocol.messages.add_partitions_to_txn import AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction
from s3stream.catalog.api import BrokerInfo, TopicInfo
from tests.broker.handlers_data.node import NODE_ID
from tests.broker.handlers_groups.node import GroupNode

PARTITIONS = 4
CONFIG = {"transaction.state.log.num.partitions": str(PARTITIONS)}

Producer = tuple[int, int]


class TransactionNode(GroupNode):
    def __init__(self) -> None:
        super().__init__()
        self.transactions = self._service()
        self.services = replace(self.services, transactions=self.transactions)
        self.services.peers.serve_locally(self.services, api_table(handlers.MODULES))

    def _service(self) -> TransactionService:
        return TransactionService(
            BrokerConfig(CONFIG),
            self.image,
            self.partitions,
            SimpleNamespace(ensure=self._ensure_transactions),  # type: ignore[arg-type]
            self.producer_ids,
            self.services.peers,
            lambda: self.now_ms,
        )

    async def _ensure_transactions(self, name: str) -> TopicInfo:
        assert name == TRANSACTION_STATE
        return self.image.topic(name) or await self.topic(name, PARTITIONS, internal=True)

    # -- requests ---------------------------------------------------------------------------------------------------
    async def init(self, transactional_id: str | None = "x", version: int = 5, **fields: Any) -> Any:
        fields = {"transaction_timeout_ms": 60_000} | fields
        return await self.ask(init_producer_id, version, transactional_id=transactional_id, **fields)

    async def producer(self, transactional_id: str = "x") -> Producer:
        response = await self.init(transactional_id)
        assert response.error_code == ErrorCode.NONE
        return response.producer_id, response.producer_epoch

    async def add(
        self,
        producer: Producer,
        *partitions: tuple[str, int],
        version: int = 3,
        transactional_id: str = "x",
        verify_only: bool = False,
    ) -> dict[tuple[str, int], ErrorCode]:
        topics = [AddPartitionsToTxnTopic(name=name, partitions=[index]) for name, index in partitions]
        if version < 4:
            response = await self.ask(
                add_partitions_to_txn,
                version,
                v3_and_below_transactional_id=transactional_id,
                v3_and_below_producer_id=producer[0],
                v3_and_below_producer_epoch=producer[1],
                v3_and_below_topics=topics,
            )
            results = response.results_by_topic_v3_and_below
        else:
            asked = AddPartitionsToTxnTransaction(
                transactional_id=transactional_id,
                producer_id=producer[0],
                producer_epoch=producer[1],
                verify_only=verify_only,
                topics=topics,
            )
            response = await self.ask(add_partitions_to_txn, version, transactions=[asked])
            assert response.error_code == ErrorCode.NONE
            results = response.results_by_transaction[0].topic_results
        return {
            (topic.name, each.partition_index): ErrorCode(each.partition_error_code)
            for topic in results
            for each in topic.results_by_partition
        }

    async def end(self, producer: Producer, commit: bool, version: int, transactional_id: str = "x") -> Any:
        """Asked again while the one before is ending, as clients do."""
        while True:
            response = await self.ask(
                end_txn,
                version,
                transactional_id=transactional_id,
                producer_id=producer[0],
                producer_epoch=producer[1],
                committed=commit,
            )
            if response.error_code != ErrorCode.CONCURRENT_TRANSACTIONS:
                return response


@asynccontextmanager
async def transaction_node(*, coordinating: bool = True) -> AsyncIterator[TransactionNode]:
    """Node 1, alive, with the topic "t" of two partitions."""
    node = TransactionNode()
    await node.learn(brokers={NODE_ID: BrokerInfo(NODE_ID, 1, "host1", 9092, None, "memory://", True, False)})
    await node.topic("t", 2)
    await node.groups.start()
    await node.transactions.start()
    if coordinating:
        await node.groups.create_topic()
        await node.transactions.create_topic()
    try:
        yield node
    finally:
        await node.transactions.stop()
        await node.groups.stop()
        await node.services.peers.close()
        await node.producer_ids.close()
