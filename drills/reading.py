"""Readers under watch: every record that one of them saw goes into a `bench.history`.

`TailReader` follows all partitions from their start and tells how old records are; `GroupReader` is a member of a
group; `read_log` is the complete read at the end.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from bench.history import Assignment, Seen
from bench.transaction_history import Place
from drills.client.admin import EARLIEST, Admin
from drills.client.client import Client
from drills.client.consumer import Consumer
from drills.client.member import Member
from drills.client.view import Address
from drills.waiting import until
from protocol.records import Record

IdOf = Callable[[Record], str]
READ_TIMEOUT_S = 180.0


class TailReader:
    """`on_seen` is told of what it reads, as it reads it."""

    def __init__(
        self,
        client: Client,
        places: Iterable[Place],
        id_of: IdOf,
        on_seen: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        self.assignments = {place: Assignment(client.name, place.partition, start=None) for place in places}
        self.client = client
        self._id_of = id_of
        self._on_seen = on_seen
        self.consumer = Consumer(client, self._read)

    def start(self, positions: Mapping[Place, int]) -> None:
        self.consumer.assign(positions)

    def positions(self) -> dict[Place, int]:
        return self.consumer.positions()

    async def wait_until_at(self, ends: Mapping[Place, int], timeout_s: float) -> None:
        """Raises TimeoutError."""
        await until(lambda: not any(self.positions().get(place, 0) < end for place, end in ends.items()), timeout_s)

    async def close(self) -> None:
        self.consumer.close()
        await self.client.close()

    def _read(self, place: Place, records: Sequence[Record]) -> None:
        ids = [self._id_of(record) for record in records]
        self.assignments[place].seen += (
            Seen(place.partition, record.offset, record_id) for record, record_id in zip(records, ids, strict=True)
        )
        if self._on_seen is not None:
            self._on_seen(ids)


class GroupReader:
    """One member of a group. `assignments` are all it ever had, with when they began."""

    def __init__(self, client: Client, group: str, topic: str, id_of: IdOf, chance: random.Random) -> None:
        self.assignments: list[tuple[float, Assignment]] = []
        self.client = client
        self.group = group
        self.is_member = False
        self._id_of = id_of
        self._current: dict[Place, Assignment] = {}
        self._loop = asyncio.get_running_loop()
        self._consumer = Consumer(client, self._read)
        self.member = Member(client, group, topic, self, chance)

    @property
    def errors(self) -> list[str]:
        return [*self.member.errors, *self._consumer.errors]

    async def start(self) -> None:
        await self.client.start()
        self.is_member = True
        self.member.start()

    def positions(self) -> dict[Place, int]:
        return self._consumer.positions()

    async def stop(self) -> None:
        """Fine to call again."""
        if not self.is_member:
            return
        self.is_member = False
        await self.member.stop()
        self._consumer.close()
        await self.client.close()

    def _read(self, place: Place, records: Sequence[Record]) -> None:
        self._current[place].seen += (Seen(place.partition, record.offset, self._id_of(record)) for record in records)

    # -- as the member's owner --------------------------------------------------------------------------------------
    def assigned(self, positions: Mapping[Place, int | None]) -> None:
        for place, start in positions.items():
            assignment = self._current[place] = Assignment(self.client.name, place.partition, start)
            self.assignments.append((self._loop.time(), assignment))
        self._consumer.assign({**self._consumer.positions(), **{place: at or 0 for place, at in positions.items()}})

    def positions_to_commit(self, places: Sequence[Place]) -> dict[Place, int]:
        found = {}
        for place in places:
            assignment = self._current[place]
            if assignment.seen and assignment.committed != (at := assignment.seen[-1].offset + 1):
                found[place] = at
        return found

    def committed(self, positions: Mapping[Place, int], *, certain: bool) -> None:
        for place, at in positions.items():
            assignment = self._current.get(place)
            if assignment is None:
                continue
            if certain:
                assignment.committed = at
                assignment.uncertain.clear()
            else:
                assignment.uncertain.append(at)

    def let_go(self, places: Sequence[Place]) -> None:
        kept = {place: at for place, at in self._consumer.positions().items() if place not in places}
        self._consumer.assign(kept)
        for place in places:
            self._current.pop(place, None)


async def read_log(
    bootstrap: Sequence[Address], topic: str, id_of: IdOf, chance: random.Random
) -> tuple[list[Seen], int]:
    """Every record of the topic, partition by partition, and where its partitions begin. Raises TimeoutError."""
    client = Client("complete-read", bootstrap, [topic], chance)
    await client.start()
    try:
        places = sorted(place for place in client.view.leaders if place.topic == topic)
        admin = Admin(client)
        starts, ends = await admin.offsets(places, EARLIEST), await admin.offsets(places)
        reader = TailReader(client, places, id_of)
        reader.start(starts)
        await reader.wait_until_at(ends, READ_TIMEOUT_S)
        reader.consumer.close()
        return [seen for place in places for seen in reader.assignments[place].seen], max(starts.values())
    finally:
        await client.close()
