"""The transaction APIs, every version, over the transaction service of a broker."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from broker.cluster.names import CONSUMER_OFFSETS, TRANSACTION_STATE
from broker.handlers import (
    add_offsets_to_txn,
    add_partitions_to_txn,
    describe_transactions,
    end_txn,
    find_coordinator,
    init_producer_id,
    list_transactions,
)
from protocol.errors import ErrorCode
from protocol.messages.add_partitions_to_txn import AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction
from tests.broker.handlers_data.node import NODE_ID
from tests.broker.transaction.node import Producer, TransactionNode, transaction_node

T0, T1 = ("t", 0), ("t", 1)
NONE = ErrorCode.NONE


def versions(handler: ModuleType) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("version", range(handler.MIN_VERSION, handler.MAX_VERSION + 1))


async def state(node: TransactionNode, transactional_id: str = "x") -> str:
    response = await node.ask(describe_transactions, 0, transactional_ids=[transactional_id])
    found: str = response.transaction_states[0].transaction_state
    return found


# -- FindCoordinator ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", range(1, find_coordinator.MAX_VERSION + 1))
async def test_the_first_search_creates_the_topic(version: int) -> None:
    async with transaction_node(coordinating=False) as node:
        keys = {"coordinator_keys": ["x"]} if version >= 4 else {"key": "x"}
        response = await node.ask(find_coordinator, version, key_type=1, **keys)
        found = response.coordinators[0] if version >= 4 else response
        assert (found.error_code, found.node_id, found.host) == (NONE, NODE_ID, "host1")
        assert node.image.topic(TRANSACTION_STATE) is not None
        assert (await node.init()).error_code == NONE


# -- InitProducerId ----------------------------------------------------------------------------------------------------
@versions(init_producer_id)
async def test_a_transactional_id_gets_an_id_and_the_next_epoch_each_time(version: int) -> None:
    async with transaction_node() as node:
        first, second = await node.init(version=version), await node.init(version=version)
        assert (first.error_code, second.error_code) == (NONE, NONE)
        assert second.producer_id == first.producer_id
        assert (first.producer_epoch, second.producer_epoch) == (0, 1)


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_a_fenced_producer_is_told_so_in_the_words_of_its_version(version: int) -> None:
    async with transaction_node() as node:
        producer_id, _ = await node.producer()
        await node.producer()
        await node.producer()
        refused = await node.init(version=version, producer_id=producer_id, producer_epoch=0)
        expected = ErrorCode.PRODUCER_FENCED if version >= 4 else ErrorCode.INVALID_PRODUCER_EPOCH
        assert (refused.error_code, refused.producer_id, refused.producer_epoch) == (expected, -1, -1)


@pytest.mark.parametrize(
    ("transactional_id", "fields"),
    [("", {}), ("x" * 8001, {}), ("x", {"producer_id": 5}), (None, {"producer_epoch": 5})],
)
async def test_what_makes_no_sense_is_an_invalid_request(transactional_id: str | None, fields: dict[str, int]) -> None:
    async with transaction_node() as node:
        assert (await node.init(transactional_id, **fields)).error_code == ErrorCode.INVALID_REQUEST


async def test_an_idempotent_producer_gets_a_new_id_each_time() -> None:
    async with transaction_node() as node:
        first, second = await node.init(None), await node.init(None)
        assert first.producer_id != second.producer_id
        assert (first.producer_epoch, second.producer_epoch) == (0, 0)


# -- AddPartitionsToTxn, AddOffsetsToTxn -------------------------------------------------------------------------------
@versions(add_partitions_to_txn)
async def test_partitions_join_a_transaction(version: int) -> None:
    async with transaction_node() as node:
        producer = await node.producer()
        assert await node.add(producer, T0, T1, version=version) == {T0: NONE, T1: NONE}
        fenced = ErrorCode.PRODUCER_FENCED if version >= 2 else ErrorCode.INVALID_PRODUCER_EPOCH
        assert await node.add((producer[0], 9), T0, version=version) == {T0: fenced}
        described = (await node.ask(describe_transactions, 0, transactional_ids=["x"])).transaction_states[0]
        assert [(each.topic, each.partitions) for each in described.topics] == [("t", [0, 1])]


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_a_partition_that_does_not_exist_keeps_the_others_out(version: int) -> None:
    async with transaction_node() as node:
        producer = await node.producer()
        assert await node.add(producer, T0, ("t", 2), ("nowhere", 0), version=version) == {
            T0: ErrorCode.OPERATION_NOT_ATTEMPTED,
            ("t", 2): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ("nowhere", 0): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        }
        assert await state(node) == "Empty"


async def test_brokers_ask_about_several_transactions_at_once() -> None:
    async with transaction_node() as node:
        producers = {name: await node.producer(name) for name in ("x", "y", "z")}
        await node.add(producers["x"], T0)

        def asked(name: str, *, verify_only: bool) -> AddPartitionsToTxnTransaction:
            return AddPartitionsToTxnTransaction(
                transactional_id=name,
                producer_id=producers[name][0],
                producer_epoch=producers[name][1],
                verify_only=verify_only,
                topics=[AddPartitionsToTxnTopic(name="t", partitions=[0, 1])],
            )

        transactions = [
            asked("x", verify_only=True),
            asked("y", verify_only=False),
            asked("z", verify_only=True),
        ]
        response = await node.ask(add_partitions_to_txn, 4, transactions=transactions)
        codes = {
            result.transactional_id: {
                each.partition_index: each.partition_error_code for each in result.topic_results[0].results_by_partition
            }
            for result in response.results_by_transaction
        }
        abortable = ErrorCode.TRANSACTION_ABORTABLE
        assert codes == {
            "x": {0: NONE, 1: abortable},
            "y": {0: NONE, 1: NONE},
            "z": {0: abortable, 1: abortable},
        }
        assert (await node.ask(add_partitions_to_txn, 4, transactions=[])).results_by_transaction == []


@versions(add_offsets_to_txn)
async def test_the_group_s_partition_joins_the_transaction(version: int) -> None:
    async with transaction_node() as node:
        producer = await node.producer()

        async def add(transactional_id: str, epoch: int) -> int:
            response = await node.ask(
                add_offsets_to_txn,
                version,
                transactional_id=transactional_id,
                producer_id=producer[0],
                producer_epoch=epoch,
                group_id="g",
            )
            code: int = response.error_code
            return code

        fenced = ErrorCode.PRODUCER_FENCED if version >= 2 else ErrorCode.INVALID_PRODUCER_EPOCH
        assert await add("x", 1) == fenced
        assert await add("", 0) == ErrorCode.INVALID_REQUEST
        assert await add("other", 0) == ErrorCode.INVALID_PRODUCER_ID_MAPPING
        assert await add("x", 0) == NONE
        described = (await node.ask(describe_transactions, 0, transactional_ids=["x"])).transaction_states[0]
        partition = node.groups.partition_of("g")
        assert [(each.topic, each.partitions) for each in described.topics] == [(CONSUMER_OFFSETS, [partition])]


# -- EndTxn ------------------------------------------------------------------------------------------------------------
@versions(end_txn)
@pytest.mark.parametrize("commit", [True, False])
async def test_an_ending_writes_its_markers_and_lets_the_next_transaction_begin(version: int, commit: bool) -> None:
    async with transaction_node() as node:
        producer = await node.producer()
        await node.add(producer, T0, T1)
        ends = [node.partitions.get(*each).log_end_offset for each in (T0, T1)]  # type: ignore[union-attr]
        response = await node.end(producer, commit, version)
        assert response.error_code == NONE
        after: Producer = producer
        if version >= 5:
            after = response.producer_id, response.producer_epoch
            assert after == (producer[0], producer[1] + 1)
        assert (await node.end(producer, commit, version)).error_code == NONE
        assert await state(node) == ("CompleteCommit" if commit else "CompleteAbort")
        marked = [node.partitions.get(*each).log_end_offset for each in (T0, T1)]  # type: ignore[union-attr]
        assert marked == [each + 1 for each in ends]
        assert await node.add(after, T0) == {T0: NONE}


@versions(end_txn)
async def test_an_ending_of_nobody_is_refused(version: int) -> None:
    async with transaction_node() as node:
        producer = await node.producer()
        fenced = ErrorCode.PRODUCER_FENCED if version >= 2 else ErrorCode.INVALID_PRODUCER_EPOCH
        assert (await node.end((producer[0], 9), True, version)).error_code == fenced
        assert (await node.end(producer, True, version)).error_code == ErrorCode.INVALID_TXN_STATE
        assert (await node.end(producer, True, version, "")).error_code == ErrorCode.INVALID_REQUEST


async def test_a_decision_survives_the_broker_s_service() -> None:
    """Its markers are sent by the one that comes after."""
    async with transaction_node() as node:
        producer = await node.producer()
        await node.add(producer, T0)
        node.transactions._markers.close()
        node.transactions._markers.dispatch = lambda *_: None  # type: ignore[method-assign]
        response = await node.ask(
            end_txn, 4, transactional_id="x", producer_id=producer[0], producer_epoch=producer[1], committed=True
        )
        assert response.error_code == NONE
        assert await state(node) == "PrepareCommit"
        await node.transactions.stop()
        node.transactions = node._service()
        await node.transactions.start()
        object.__setattr__(node.services, "transactions", node.transactions)
        await node.transactions.wait_loaded()
        assert (await node.end(producer, True, 4)).error_code == NONE
        assert await state(node) == "CompleteCommit"


async def test_what_belongs_to_another_broker_is_refused() -> None:
    async with transaction_node() as node:
        producer = await node.producer()
        await node.transactions.stop()
        info = node.image.topic(TRANSACTION_STATE)
        assert info is not None
        elsewhere = type(info)(
            info.topic_id,
            info.name,
            True,
            1,
            tuple(type(each)(each.index, 2, 6, each.log_stream_id, each.state_stream_id) for each in info.partitions),
            {},
        )
        await node.learn({info.topic_id: elsewhere})
        assert (await node.init()).error_code == ErrorCode.NOT_COORDINATOR
        assert (await node.end(producer, True, 5)).error_code == ErrorCode.NOT_COORDINATOR


# -- DescribeTransactions, ListTransactions ----------------------------------------------------------------------------
async def test_each_transactional_id_is_described() -> None:
    async with transaction_node() as node:
        producer = await node.producer()
        await node.add(producer, T0)
        response = await node.ask(describe_transactions, 0, transactional_ids=["x", "nobody", ""])
        known, unknown, empty = response.transaction_states
        assert (known.transaction_state, known.transaction_timeout_ms) == ("Ongoing", 60_000)
        assert (known.producer_id, known.producer_epoch) == producer
        assert known.transaction_start_time_ms == node.now_ms
        assert (unknown.error_code, empty.error_code) == (
            ErrorCode.TRANSACTIONAL_ID_NOT_FOUND,
            ErrorCode.INVALID_REQUEST,
        )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"x1": "Ongoing", "x2": "Empty"}),
        ({"state_filters": ["Ongoing"]}, {"x1": "Ongoing"}),
        ({"state_filters": ["Ongoing", "bogus"]}, {"x1": "Ongoing"}),
        ({"state_filters": ["ongoing"]}, {}),
        ({"state_filters": ["Dead", "PrepareEpochFence"]}, {}),
        ({"duration_filter": 500}, {"x1": "Ongoing", "x2": "Empty"}),
        ({"duration_filter": 1000}, {"x2": "Empty"}),
        ({"transactional_id_pattern": "x."}, {"x1": "Ongoing", "x2": "Empty"}),
        ({"transactional_id_pattern": ".*2"}, {"x2": "Empty"}),
        ({"transactional_id_pattern": "x"}, {}),
        ({"transactional_id_pattern": ""}, {"x1": "Ongoing", "x2": "Empty"}),
    ],
)
async def test_transactions_are_listed_by_filters(fields: dict[str, object], expected: dict[str, str]) -> None:
    async with transaction_node() as node:
        await node.add(await node.producer("x1"), T0, transactional_id="x1")
        producer_id, _ = await node.producer("x2")
        node.now_ms += 1000
        response = await node.ask(list_transactions, 2, **fields)
        assert response.error_code == NONE
        assert {each.transactional_id: each.transaction_state for each in response.transaction_states} == expected
        unknown = {"bogus", "ongoing"}.intersection(fields.get("state_filters", ()))  # type: ignore[arg-type]
        assert set(response.unknown_state_filters) == unknown
        only = await node.ask(list_transactions, 0, producer_id_filters=[producer_id])
        assert [each.transactional_id for each in only.transaction_states] == ["x2"]


@pytest.mark.parametrize("pattern", ["(", r"(a)\1", "(?=a)"])
async def test_a_pattern_that_re2_does_not_know_is_refused(pattern: str) -> None:
    async with transaction_node() as node:
        response = await node.ask(list_transactions, 2, transactional_id_pattern=pattern)
        assert response.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION


def test_the_apis_do_not_load_re2_before_somebody_gives_an_expression() -> None:
    code = "import sys, broker.handlers; sys.exit('re2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
