"""A shard of the transaction coordinator in virtual time, over an in-memory log, with calls that read like requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.coordinator.machine import Outcome
from broker.coordinator.memory_log import MemoryLog
from broker.coordinator.reply import Reply
from broker.coordinator.shard import Shard
from broker.coordinator.transaction.config import TransactionConfig
from broker.coordinator.transaction.machine import TransactionMachine
from broker.coordinator.transaction.marker_job import MarkerJob
from broker.coordinator.transaction.records import TransactionValue
from protocol.errors import ErrorCode
from protocol.messages.describe_transactions import TransactionState as DescribedTransaction
from protocol.messages.end_txn import EndTxnRequest, EndTxnResponse
from protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from tests.broker.coordinator.harness import START_MS, VirtualScheduler, drive

T0 = ("t", 0)
T1 = ("t", 1)
PLAIN, BUMPING = 0, 2
"""`transaction.version` of a client."""

Producer = tuple[int, int]


class Sink:
    """Takes jobs; tests write the markers."""

    def __init__(self) -> None:
        self.jobs: list[MarkerJob] = []

    def send(self, job: MarkerJob) -> None:
        self.jobs.append(job)


class TransactionCoordinator:
    """One shard. Each call is answered as soon as the log is durable, which `auto_sync` makes at once."""

    def __init__(self, log: MemoryLog | None = None, *, first_producer_id: int = 1000, **config: int) -> None:
        self.scheduler = VirtualScheduler()
        self.log = log if log is not None else MemoryLog(auto_sync=True)
        self.config = TransactionConfig(**config)
        self.wall_offset_ms = 0
        """What the wall clock is off."""
        self.next_producer_id: int | None = first_producer_id
        self.sink = Sink()
        self.shard = self._new_shard()
        drive(self.shard.load())

    def _new_shard(self) -> Shard[TransactionMachine]:
        self.sink = Sink()
        return Shard(
            0,
            self.log,
            lambda timers: TransactionMachine(timers, self.config, self._take, self.sink),
            self.scheduler,
            lambda: START_MS + self.scheduler.now_ms + self.wall_offset_ms,
            lambda shard, error: None,
        )

    def _take(self) -> int | None:
        if self.next_producer_id is None:
            return None
        self.next_producer_id += 1
        return self.next_producer_id - 1

    @property
    def jobs(self) -> list[MarkerJob]:
        return self.sink.jobs

    def value(self, transactional_id: str = "x") -> TransactionValue:
        return self.shard.machine.transactions[transactional_id]

    def restart(self, log: MemoryLog | None = None) -> None:
        """Lose the shard and load a new one from what is durable."""
        self.shard.close()
        self.log = log if log is not None else self.log.survivor()
        self.shard = self._new_shard()
        drive(self.shard.load())
        self.scheduler.turn()

    def advance(self, ms: int) -> None:
        self.scheduler.advance(ms)

    # -- requests ---------------------------------------------------------------------------------------------------
    def call(
        self,
        transactional_id: str,
        refusal: Callable[[ErrorCode], Any],
        run: Callable[[TransactionMachine, Outcome, Reply], None],
    ) -> Reply:
        reply = Reply(refusal)
        self.shard.submit(transactional_id, reply, lambda machine, out: run(machine, out, reply))
        self.scheduler.turn()
        return reply

    def start_init(self, transactional_id: str = "x", expected: Producer = (-1, -1), timeout_ms: int = 60_000) -> Reply:
        request = InitProducerIdRequest(
            transactional_id=transactional_id,
            transaction_timeout_ms=timeout_ms,
            producer_id=expected[0],
            producer_epoch=expected[1],
        )
        return self.call(
            transactional_id,
            lambda code: InitProducerIdResponse(error_code=code, producer_id=-1, producer_epoch=-1),
            lambda machine, out, reply: machine.init_producer_id(out, reply, request),
        )

    def start_add(
        self,
        transactional_id: str,
        producer: Producer,
        *partitions: tuple[str, int],
        version: int = BUMPING,
    ) -> Reply:
        return self.call(
            transactional_id,
            lambda code: code,
            lambda machine, out, reply: machine.add_partitions(
                out, reply, transactional_id, producer, frozenset(partitions), version
            ),
        )

    def start_end(self, transactional_id: str, producer: Producer, commit: bool, version: int = BUMPING) -> Reply:
        request = EndTxnRequest(
            transactional_id=transactional_id, producer_id=producer[0], producer_epoch=producer[1], committed=commit
        )
        return self.call(
            transactional_id,
            lambda code: EndTxnResponse(error_code=code),
            lambda machine, out, reply: machine.end(out, reply, request, version),
        )

    def verify(self, producer: Producer, *partitions: tuple[str, int]) -> Any:
        """Codes by partition, or one for all."""
        return self.call(
            "x",
            lambda code: code,
            lambda machine, out, reply: out.answer(
                reply, machine.verify_partitions("x", producer, frozenset(partitions))
            ),
        ).response

    def describe(self, transactional_id: str = "x") -> DescribedTransaction:
        described: DescribedTransaction = self.call(
            transactional_id,
            lambda code: DescribedTransaction(error_code=code),
            lambda machine, out, reply: machine.describe(out, reply, transactional_id),
        ).response
        return described

    def init(self, expected: Producer = (-1, -1), timeout_ms: int = 60_000) -> Producer:
        """The producer id and epoch of "x"."""
        response = self.start_init("x", expected, timeout_ms).response
        assert response.error_code == ErrorCode.NONE, ErrorCode(response.error_code)
        return response.producer_id, response.producer_epoch

    def init_code(self, expected: Producer = (-1, -1), timeout_ms: int = 60_000) -> ErrorCode:
        return ErrorCode(self.start_init("x", expected, timeout_ms).response.error_code)

    def add(self, producer: Producer, *partitions: tuple[str, int], version: int = BUMPING) -> ErrorCode:
        return ErrorCode(self.start_add("x", producer, *partitions or (T0,), version=version).response)

    def end(self, producer: Producer, commit: bool, version: int = BUMPING) -> tuple[ErrorCode, Producer]:
        response = self.start_end("x", producer, commit, version).response
        return ErrorCode(response.error_code), (response.producer_id, response.producer_epoch)

    def write_markers(self) -> None:
        """Of all jobs there are."""
        jobs, self.sink.jobs = self.sink.jobs, []
        for job in jobs:
            job.remaining.clear()
            self.finish(job)

    def finish(self, job: MarkerJob) -> None:
        self.call(
            job.transactional_id,
            lambda code: code,
            lambda machine, out, reply: machine.markers_written(out, reply, job),
        )
