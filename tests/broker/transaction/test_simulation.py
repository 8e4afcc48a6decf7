"""Random histories of one coordinator, its producers and the partitions they write to, from a seed: requests late and
twice, several producers of one transactional id, old and new clients, lost and repeated markers, clock jumps, slow,
full and lost logs, crashes at any point.

The partitions are a model of Kafka's rules for producers. Each transaction has a token, which its data carry; what
became of it is read from the partitions, and compared with what its producer was told.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest

from broker.coordinator.memory_log import MemoryLog
from broker.coordinator.reply import Reply
from broker.coordinator.transaction.marker_job import MarkerJob
from broker.coordinator.transaction.records import TransactionValue, decode_record
from broker.coordinator.transaction.states import PREPARED, TransactionState
from protocol.errors import ErrorCode
from tests.broker.transaction.harness import BUMPING, PLAIN, Producer, TransactionCoordinator
from tests.broker.transaction.model import NOBODY, Client, Partition, check_log, forgetting

STEPS = 500
TRANSACTIONAL_IDS = ("x", "y")
PARTITIONS = (("t", 0), ("t", 1), ("u", 0))
TIMEOUT_MS = 20_000
CHECK_INTERVAL_MS = 5_000
LAST_EPOCHS = 32_760
"""The history of "y" begins here, so that it sees what follows the last epoch."""


class Simulation:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.coordinator = TransactionCoordinator(MemoryLog(), abort_check_interval_ms=CHECK_INTERVAL_MS)
        self.coordinator_epoch = 0
        self.loaded_ms = 0
        self.partitions = {each: Partition() for each in PARTITIONS}
        self.clients = [
            Client(f"{transactional_id}{index}", transactional_id, version)
            for transactional_id in TRANSACTIONAL_IDS
            for index, version in enumerate((BUMPING, PLAIN, BUMPING))
        ]
        self.sending: list[tuple[MarkerJob, int]] = []
        self.late: list[tuple[MarkerJob, int]] = []
        self.stale: list[MarkerJob] = []
        self.told: dict[int, bool] = {}
        self.holders: dict[str, Client] = {}
        self.old_ends: list[tuple[Client, Producer, int, bool]] = []
        self.ongoing_since: dict[str, int] = {}
        self.last_token = 0
        self.trace: list[Any] = []

    def run(self) -> list[Any]:
        self.age("y")
        steps = {
            self.init: 6,
            self.begin_or_add: 30,
            self.end: 25,
            self.end_again: 8,
            self.late_end: 6,
            self.durable: 60,
            self.marker: 60,
            self.late_marker: 4,
            self.stale_job: 4,
            self.tick: 30,
            self.jump: 4,
            self.wall_jump: 1,
            self.crash: 2,
            self.lose_log: 1,
            self.fill_or_free: 2,
        }
        for _ in range(STEPS):
            step = self.random.choices([*steps], [*steps.values()])[0]
            step()
            self.collect()
            self.check()
        self.quiet_down()
        return self.trace

    def age(self, transactional_id: str) -> None:
        """A transactional id that has seen nearly all epochs of its producer id."""
        self.coordinator.start_init(transactional_id)
        self.coordinator.log.sync()
        record = decode_record(*self.coordinator.log.records[-1][0])
        assert record is not None
        assert record.value is not None
        aged = record._replace(value=record.value._replace(producer_epoch=LAST_EPOCHS))
        self.coordinator.log.append([aged.encode()], 0)
        self.coordinator.log.sync()
        self.restart(self.coordinator.log.survivor())

    # -- producers --------------------------------------------------------------------------------------------------
    def now(self) -> int:
        return self.coordinator.scheduler.now_ms

    def client(self) -> Client:
        return self.random.choice(self.clients)

    def told_code(self, client: Client, what: str, code: int, entitled: bool) -> ErrorCode:
        self.trace.append((self.now(), what, client.name, ErrorCode(code).name))
        if not entitled:
            assert code != ErrorCode.NONE, f"{what} of a fenced producer was done"
        return ErrorCode(code)

    def init(self) -> None:
        """A start, or (KIP-360) a producer that goes on after an error."""
        client = self.client()
        resumes = client.producer != NOBODY and self.random.random() < 0.5
        expected = client.producer if resumes else NOBODY
        entitled = not (resumes and client.fenced)
        reply = self.coordinator.start_init(client.transactional_id, expected, TIMEOUT_MS)

        def answered(_: object) -> None:
            response = reply.response
            code = self.told_code(client, "init", response.error_code, entitled)
            if code is ErrorCode.NONE:
                self.holds(client, (response.producer_id, response.producer_epoch))

        self.when_done(reply, answered)

    def holds(self, client: Client, producer: Producer) -> None:
        """The client is the producer of its transactional id; the one before is fenced. Answers may come in another
        order than the requests were done in, so the later producer is the one that counts."""
        former = self.holders.get(client.transactional_id)
        if former is not None and former is not client:
            if self.newer(former.producer, producer):
                client.fenced = True
                client.producer = producer
                client.token = client.decision = None
                return
            former.fenced = True
        if not self.newer(client.producer, producer):
            client.producer = producer
        client.token = client.decision = None
        client.fenced = False
        self.holders[client.transactional_id] = client

    @staticmethod
    def newer(first: Producer, second: Producer) -> bool:
        """Producer ids grow, too."""
        return first > second

    def begin_or_add(self) -> None:
        """New clients leave it to the partition's leader, which adds and then writes. Old ones ask themselves."""
        client = self.client()
        if client.producer == NOBODY or client.decision is not None:
            return
        if client.token is None:
            self.last_token += 1
            client.token = self.last_token
        producer, token = client.producer, client.token
        partition = self.random.choice(PARTITIONS)
        entitled = not client.fenced
        reply = self.coordinator.start_add(client.transactional_id, producer, partition, version=client.version)

        def answered(_: object) -> None:
            code = self.told_code(client, "add", reply.response, entitled)
            if code is not ErrorCode.NONE:
                return
            verified = self.is_ongoing(client, producer, partition)
            if client.token == token and client.producer == producer and client.decision is None and verified:
                self.partitions[partition].write(producer, token)

        self.when_done(reply, answered)

    def is_ongoing(self, client: Client, producer: Producer, partition: tuple[str, int]) -> bool:
        """The leader's guard: no ending may have come between the coordinator's word and the write."""
        value = self.coordinator.shard.machine.transactions.get(client.transactional_id)
        return (
            value is not None
            and value.state is TransactionState.ONGOING
            and (value.producer_id, value.producer_epoch) == producer
            and partition in value.partitions
        )

    def end(self) -> None:
        client = self.client()
        if client.token is None or client.decision is not None:
            return
        client.decision = self.random.random() < 0.6
        self.send_end(client)

    def end_again(self) -> None:
        """The answer has not come: lost, or slow."""
        client = self.client()
        if client.token is not None and client.decision is not None:
            self.send_end(client)

    def send_end(self, client: Client) -> None:
        assert client.token is not None
        assert client.decision is not None
        producer, token, commit = client.producer, client.token, client.decision
        entitled = not client.fenced
        reply = self.coordinator.start_end(client.transactional_id, producer, commit, client.version)
        if client.version == BUMPING:
            self.old_ends.append((client, producer, token, commit))

        def answered(_: object) -> None:
            response = reply.response
            code = self.told_code(client, "commit" if commit else "abort", response.error_code, entitled)
            if client.producer != producer or client.token != token:
                return
            if code is ErrorCode.NONE:
                self.told[token] = commit
                client.token = client.decision = None
                if client.version == BUMPING:
                    client.producer = (response.producer_id, response.producer_epoch)
            elif code not in (
                ErrorCode.CONCURRENT_TRANSACTIONS,
                ErrorCode.NOT_COORDINATOR,
                ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
            ):
                client.token = client.decision = None  # it begins anew with InitProducerId, or is fenced

        self.when_done(reply, answered)

    def late_end(self) -> None:
        """A request of a new client about a transaction that it is done with; it must not touch another."""
        if not self.old_ends:
            return
        client, producer, token, commit = self.random.choice(self.old_ends)
        if client.token == token:
            return
        before = self.coordinator.shard.machine.transactions.get(client.transactional_id)
        self.coordinator.start_end(client.transactional_id, producer, commit, BUMPING)
        after = self.coordinator.shard.machine.transactions.get(client.transactional_id)
        assert before == after or (before is not None and self.first_end_of(before, producer)), (
            f"a late ending of {producer} changed {before} to {after}"
        )

    @staticmethod
    def first_end_of(value: TransactionValue, producer: Producer) -> bool:
        """It was lost before it was done, and nothing has happened since."""
        return (value.producer_id, value.producer_epoch) == producer

    # -- markers ----------------------------------------------------------------------------------------------------
    def collect(self) -> None:
        """Jobs that the coordinator has sent. Its decision is durable then."""
        for job in self.coordinator.jobs:
            durable = self.last_durable(job.transactional_id)
            assert durable is not None
            assert durable.state in PREPARED
            assert (durable.producer_id, durable.producer_epoch) == (job.producer_id, job.producer_epoch)
            assert job.commit == (durable.state is TransactionState.PREPARE_COMMIT)
            assert job.remaining == durable.partitions
            self.sending.append((job, self.coordinator_epoch))
        self.coordinator.jobs.clear()

    def last_durable(self, transactional_id: str) -> TransactionValue | None:
        value = None
        for batch in self.coordinator.log.batches:
            if batch.offset >= self.coordinator.log.durable_offset:
                break
            for each, _ in batch.records:
                record = decode_record(*each)
                if record is not None and record.transactional_id == transactional_id:
                    value = record.value
        return value

    def marker(self) -> None:
        """One marker is written. Its answer may be lost, and it is written again."""
        if not self.sending:
            return
        job, coordinator_epoch = self.random.choice(self.sending)
        if job.remaining:
            partition = self.random.choice(sorted(job.remaining))
            done = self.partitions[partition].mark(job, coordinator_epoch)
            if self.random.random() < 0.3:
                if job.transaction_version == BUMPING:
                    self.late.append((job, coordinator_epoch))
            elif done:
                job.remaining.discard(partition)
        if not job.remaining:
            self.sending.remove((job, coordinator_epoch))
            self.coordinator.finish(job)

    def late_marker(self) -> None:
        """A request that was given up and arrives after all. (Before KIP-890 it may end a later transaction.)"""
        if self.late:
            job, coordinator_epoch = self.random.choice(self.late)
            partition = self.partitions[self.random.choice(PARTITIONS)]
            assert job.transaction_version == BUMPING
            if job.producer_id in partition.epochs:
                partition.mark(job, coordinator_epoch)

    def stale_job(self) -> None:
        """A job of a shard that is gone is said to be done: it is no longer what the coordinator waits for."""
        if self.stale:
            self.coordinator.finish(self.random.choice(self.stale))

    # -- the world --------------------------------------------------------------------------------------------------
    def when_done(self, reply: Reply, answered: Any) -> None:
        if reply.done:
            answered(reply)
        else:
            reply.on_complete = answered

    def durable(self) -> None:
        log = self.coordinator.log
        log.sync(self.random.randint(log.durable_offset, log.end_offset))

    def tick(self) -> None:
        self.coordinator.advance(self.random.randrange(1, 1_000))

    def jump(self) -> None:
        self.coordinator.advance(self.random.randrange(2_000, 15_000))

    def wall_jump(self) -> None:
        self.coordinator.wall_offset_ms += self.random.randrange(-60_000, 60_000)

    def crash(self) -> None:
        log = self.coordinator.log
        self.restart(log.survivor(self.random.randint(log.durable_offset, log.end_offset)))

    def lose_log(self) -> None:
        log = self.coordinator.log
        log.fail()
        self.restart(log.survivor(self.random.randint(log.durable_offset, log.end_offset)))

    def fill_or_free(self) -> None:
        log = self.coordinator.log
        log.full = True
        self.tick()
        log.full = False
        self.coordinator.advance(100)

    def restart(self, log: MemoryLog) -> None:
        """The next coordinator has the next epoch; markers of the former one may still arrive."""
        log.durable_offset = log.end_offset
        self.late += [each for each in self.sending if each[0].transaction_version == BUMPING]
        self.stale += [job for job, _ in self.sending]
        self.sending.clear()
        self.coordinator_epoch += 1
        self.coordinator.restart(log)
        self.loaded_ms = self.now()
        self.ongoing_since.clear()

    # -- what must hold ---------------------------------------------------------------------------------------------
    def check(self) -> None:
        for transactional_id, value in self.coordinator.shard.machine.transactions.items():
            if value.state is not TransactionState.ONGOING:
                self.ongoing_since.pop(transactional_id, None)
                continue
            since = self.ongoing_since.setdefault(transactional_id, max(self.loaded_ms, self.now()))
            assert self.now() - since <= TIMEOUT_MS + CHECK_INTERVAL_MS, "a transaction outlives its time-out"
        for job, _ in self.sending:
            value = self.coordinator.shard.machine.transactions[job.transactional_id]
            assert value.state in PREPARED, "a transaction is complete before all its markers are written"
        outcomes: dict[int, set[bool]] = defaultdict(set)
        for partition in self.partitions.values():
            for token, ends in partition.outcomes.items():
                outcomes[token].update(ends)
        for token, ends in outcomes.items():
            assert len(ends) == 1, f"transaction {token} is torn"
            assert self.told.get(token) in (None, *ends), f"transaction {token} ended otherwise than was told"

    def quiet_down(self) -> None:
        """Once the log keeps up and markers arrive, every transaction ends: as its producer was told, or aborted."""
        log = self.coordinator.log
        for _ in range(4):
            log.sync()
            self.collect()
            while self.sending:
                self.marker()
                log.sync()
                self.collect()
            self.coordinator.advance(TIMEOUT_MS)
        self.check()
        for partition in self.partitions.values():
            assert not partition.open, "a transaction hangs"
            assert partition.tokens == set(partition.outcomes)
            for token, committed in self.told.items():
                assert token not in partition.tokens or partition.outcomes[token] == [committed]
        assert check_log(log.records, LAST_EPOCHS) == forgetting(self.coordinator.shard.machine.transactions)
        self.trace.append(sorted(self.told.items()))
        values = forgetting(self.coordinator.shard.machine.transactions)
        self.restart(log.survivor())
        assert self.coordinator.shard.machine.transactions == values


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_the_promises_are_kept(seed: int) -> None:
    Simulation(seed).run()


def test_the_same_seed_gives_the_same_trace() -> None:
    assert Simulation(4711).run() == Simulation(4711).run()
