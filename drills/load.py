"""The load of a drill: producers at a steady rate into all partitions of one topic, a reader at its tail, and all that
they know of it, for the timeline and for the checker.

The rate does not depend on the answers: what cannot be sent waits, and gets old. Every partition gets a record at every
tick (10 ms), so a gap in acknowledgements is told to that.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from bench.history import Assignment, History, Outcome, Seen, Send, Violation, check
from bench.transaction_history import Place
from drills.client.admin import Admin
from drills.client.client import Client
from drills.client.connection import Disconnected
from drills.client.producer import Message, Producer
from drills.client.view import Address
from drills.reading import GroupReader, TailReader, read_log
from drills.timeline import Timeline
from drills.values import SIZE_MAX, id_in, value_of
from drills.waiting import until
from protocol.records import Record

TICK_S = 0.01
PRODUCERS = 2
SETTLE_TIMEOUT_S = 120.0
BALLAST = "ballast"
BALLAST_SIZE = SIZE_MAX - 1024
"""Of one record: with its batch it stays below `max.message.bytes`."""
BALLAST_AHEAD = 16
"""Records of ballast on their way."""


class LoadFailed(Exception):
    """The load did not get on as it should."""


class Load:
    """`now` is the timeline's clock."""

    def __init__(
        self,
        bootstrap: Callable[[], Sequence[Address]],
        timeline: Timeline,
        now: Callable[[], float],
        seed: int,
        *,
        topic: str = "drill",
        partitions: int = 12,
        rate: int = 1200,
        record_size: int = 1024,
    ) -> None:
        self.topic = topic
        self.places = [Place(topic, index) for index in range(partitions)]
        self.rate = rate
        self.errors: list[str] = []
        self.groups: list[GroupReader] = []
        self.violations: list[Violation] = []
        self._bootstrap = bootstrap
        self._timeline = timeline
        self._now = now
        self._chance = random.Random(seed)
        self._record_size = record_size
        self._sends: dict[str, Send] = {}
        self._created: dict[str, float] = {}
        self._producers: list[Producer] = []
        self._clients: list[Client] = []
        self._counts = [0] * partitions
        self._unanswered = 0
        self._filled = 0
        """Records of ballast in each partition."""
        self._ballast = 0
        """Records of ballast that are not acknowledged yet."""
        self._generator: asyncio.Task[None] | None = None
        self._log: list[Seen] = []
        self._extra_assignments: list[tuple[float, Assignment]] = []

    # -- start ------------------------------------------------------------------------------------------------------
    async def prepare(self, configs: dict[str, str] | None = None) -> None:
        """Make the topic, connect. Its leaders are followed by a client that knows that it is there."""
        await Admin(await self.client("creator", topics=[])).create_topic(self.topic, len(self.places), configs)
        self.admin = Admin(await self.client("admin"))
        for number in range(PRODUCERS):
            client = await self.client(f"producer-{number}")
            producer = Producer(client, self.places[number::PRODUCERS], self)
            await producer.start()
            self._producers.append(producer)
        self.tail = TailReader(await self.client("tail"), self.places, self.id_of, self._seen)
        self.tail.start(dict.fromkeys(self.places, 0))

    async def client(self, name: str, topics: Sequence[str] | None = None) -> Client:
        client = Client(name, self._bootstrap(), [self.topic] if topics is None else topics, self._chance)
        self._clients.append(client)
        await client.start()
        return client

    def start(self) -> None:
        self._generator = asyncio.create_task(self._generate(), name="load")

    async def fill(self, size: int) -> None:
        """Records of about 1 MiB, the same number in each partition, up to `size` bytes in all with what was filled in
        before; returns when they are acknowledged."""
        per_place = max(size // BALLAST_SIZE // len(self.places), 1)
        filled, self._filled = self._filled, per_place
        for number in range(filled, per_place):
            for place in self.places:
                await self._until_ballast(BALLAST_AHEAD - 1)
                self._ballast += 1
                self._send([self._message(place, f"{BALLAST}-{place.partition}-{number}", BALLAST_SIZE)])
        await self._until_ballast(0)

    async def _generate(self) -> None:
        began = self._now()
        sent = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            now = self._now()
            sent += (now - began) * self.rate / len(self.places)
            began = now
            count = int(sent)
            sent -= count
            for _ in range(count):
                self._send([self._message(place, None, self._record_size) for place in self.places])

    def _message(self, place: Place, record_id: str | None, size: int) -> Message:
        number = self._counts[place.partition]
        self._counts[place.partition] += 1
        record_id = record_id or f"{place.partition}-{number}"
        self._sends[record_id] = Send(record_id, f"to-{place.partition}", number, place.partition)
        self._created[record_id] = self._now()
        return Message(place, record_id, value_of(record_id, size))

    def _send(self, messages: Sequence[Message]) -> None:
        self._unanswered += len(messages)
        for number, producer in enumerate(self._producers):
            producer.send(message for message in messages if message.place.partition % PRODUCERS == number)

    # -- what clients tell ------------------------------------------------------------------------------------------
    def acknowledged(self, messages: Sequence[Message], base_offset: int | None) -> None:
        self._answered(messages)
        for position, message in enumerate(messages):
            send = self._sends[message.id]
            send.outcome = Outcome.ACKNOWLEDGED
            send.offset = None if base_offset is None else base_offset + position
        self._timeline.acknowledged(self._now(), messages[0].place, len(messages))

    def failed(self, messages: Sequence[Message], reason: str) -> None:
        """The outcome stays unknown: an earlier attempt may have been carried out."""
        self._answered(messages)
        self.errors.append(reason)

    def _answered(self, messages: Sequence[Message]) -> None:
        self._unanswered -= len(messages)
        self._ballast -= sum(len(message.value) == BALLAST_SIZE for message in messages)

    def _seen(self, ids: Sequence[str]) -> None:
        now = self._now()
        for record_id in ids:
            created = self._created.get(record_id)
            if created is not None and not record_id.startswith(BALLAST):
                self._timeline.was_read(now, now - created)

    def id_of(self, record: Record) -> str:
        is_ballast = record.key is not None and record.key.startswith(BALLAST.encode())
        return id_in(record, BALLAST_SIZE if is_ballast else self._record_size)

    # -- readers in a group -----------------------------------------------------------------------------------------
    async def join(self, group: str, name: str) -> GroupReader:
        client = Client(name, self._bootstrap(), [self.topic], self._chance)
        reader = GroupReader(client, group, self.topic, self.id_of, self._chance)
        self.groups.append(reader)
        await reader.start()
        return reader

    def other_assignment(self, assignment: Assignment) -> None:
        """A commit that was made for a group from outside, as one of its history."""
        self._extra_assignments.append((asyncio.get_running_loop().time(), assignment))

    # -- the end ----------------------------------------------------------------------------------------------------
    async def wait_for_acks(self, count: int, timeout_s: float = 60.0) -> None:
        """So many more, of any partitions. Raises LoadFailed."""
        target = self._timeline.ack_count() + count
        try:
            await until(lambda: self._timeline.ack_count() >= target, timeout_s)
        except TimeoutError:
            raise LoadFailed(f"fewer than {count} acknowledgements in {timeout_s:.0f} s") from None

    async def stop(self) -> None:
        """No more new records; those on their way go on."""
        await self._stop_generating()

    async def missing(self) -> list[tuple[Send, float]]:
        """After `settle`: acknowledged records that a complete read does not find, and when they were made."""
        log, _ = await read_log(self._bootstrap(), self.topic, self.id_of, self._chance)
        there = {seen.id for seen in log}
        return [
            (send, self._created[send.id])
            for send in self._sends.values()
            if send.outcome is Outcome.ACKNOWLEDGED and send.id not in there
        ]

    async def settle(self) -> None:
        """No more new records; returns when all are acknowledged. Raises LoadFailed."""
        await self._stop_generating()
        await self._until_idle()

    async def verdict(self) -> list[Violation]:
        """After `settle`: read everything, by the tail's reader and anew, and check it. Raises LoadFailed."""
        try:
            ends = await self.admin.offsets(self.places)
            await self.tail.wait_until_at(ends, SETTLE_TIMEOUT_S)
            await self._wait_for_groups(ends)
            for reader in self.groups:
                await reader.stop()
            self.errors += self.tail.consumer.errors
            self.errors += (error for reader in self.groups for error in reader.errors)
            self._log, log_start = await read_log(self._bootstrap(), self.topic, self.id_of, self._chance)
        except TimeoutError as error:
            raise LoadFailed(f"the log cannot be read to its end: {error}") from None
        self.violations = await asyncio.to_thread(check, self._history(log_start))
        return self.violations

    def unread_by_groups(self) -> dict[str, int]:
        """After `verdict`, for each group: how many records of the log none of its members has seen."""
        seen: dict[str, set[tuple[int, int]]] = {}
        for reader in self.groups:
            found = seen.setdefault(reader.group, set())
            for _, assignment in reader.assignments:
                found.update((record.partition, record.offset) for record in assignment.seen)
        log = {(record.partition, record.offset) for record in self._log}
        return {group: len(log - found) for group, found in seen.items()}

    async def _wait_for_groups(self, ends: Mapping[Place, int]) -> None:
        """Until members have read to the end of every partition, in every group that has any."""
        groups = {reader.group for reader in self.groups if reader.is_member}
        await until(
            lambda: all(self._position_of(group, place) >= end for group in groups for place, end in ends.items()),
            SETTLE_TIMEOUT_S,
        )

    def _position_of(self, group: str, place: Place) -> int:
        at = (reader.positions().get(place, 0) for reader in self.groups if reader.group == group)
        return max(at, default=0)

    def _history(self, log_start: int) -> History:
        began = [*self._extra_assignments, *(entry for reader in self.groups for entry in reader.assignments)]
        in_order = [assignment for _, assignment in sorted(began, key=lambda entry: entry[0])]
        return History(
            sends=list(self._sends.values()),
            log=self._log,
            assignments=[*self.tail.assignments.values(), *in_order],
            drained=True,
            log_start=log_start,
        )

    async def remove_topic(self) -> None:
        """From a cluster that is not ours, as far as it lets us."""
        if self._clients:
            with suppress(Disconnected):
                await self.admin.delete_topic(self.topic)

    async def close(self) -> None:
        await self._stop_generating()
        for reader in self.groups:
            await reader.client.close()
        for client in self._clients:
            await client.close()

    async def _stop_generating(self) -> None:
        generator, self._generator = self._generator, None
        if generator is not None:
            generator.cancel()
            with suppress(asyncio.CancelledError):
                await generator

    async def _until_ballast(self, count: int) -> None:
        """At most so many records of it are on their way. Raises LoadFailed."""
        try:
            await until(lambda: self._ballast <= count or bool(self.errors), SETTLE_TIMEOUT_S)
        except TimeoutError:
            raise LoadFailed("old data is not acknowledged") from None
        if self.errors:
            raise LoadFailed(f"a producer was told: {self.errors[0]}")

    async def _until_idle(self) -> None:
        try:
            await until(lambda: all(producer.is_idle for producer in self._producers), SETTLE_TIMEOUT_S)
        except TimeoutError:
            raise LoadFailed(f"{self._unanswered} records are not acknowledged in {SETTLE_TIMEOUT_S:.0f} s") from None
