"""`Mover`: hands over what this broker leads and the catalog has a target for, whoever set it.

One round at a time, of as many partitions as there are (up to `ROUND_MAX`), so that hundreds cost a few uploads and
transactions:

1. *prepare*, while all is served: the targets are told, and the tails are uploaded until little is left of them
2. *hold*: nothing is accepted any more; requests are parked, reads go on
3. *finish*: the state is saved and the rest uploaded, a write to the log and a PUT
4. *switch*: one transaction closes the streams and names the new leaders; whoever was parked is sent there

Invariants
----------
* Nothing is handed over before all of it is committed in objects.
* From the call of `hand_over` on nothing of it is accepted here again, until the catalog has said that it has not
  been handed over. While the catalog does not answer nobody serves it.
* A round whose upload takes too long is given up: its partitions go on here, and are tried again later.

A partition that cannot be read here goes as it is: there is nothing of it to be uploaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from math import inf
from uuid import UUID

import structlog

from broker.background import BackgroundTask
from broker.cluster.image import MetadataImage
from broker.handoff.announcing import Key, announce
from broker.partition.partition import Partition
from broker.partitions import Partitions
from broker.peers import Peers
from s3stream.api import Storage, StorageError
from s3stream.catalog.api import BrokerFenced, Catalog, CatalogError, Changes, TopicInfo

log = structlog.get_logger()

ROUND_MAX = 200
"""Partitions of a round: their states are saved, committed and read again while clients wait."""
QUICK_UPLOAD_S = 0.05
PRE_UPLOADS_MAX = 4
"""Uploads made before the partitions are held: until one was quick, or not quicker by half than the one before."""
SLOW_UPLOAD_S = 0.25
SLOW_TRIES_MAX = 3
"""A move waits for a quicker moment so many times if uploads take that long; then it is made all the same."""
FINISH_MAX_S = 2.0
"""How long the last upload may take while clients wait."""
RETRY_MIN_S, RETRY_MAX_S = 1.0, 15.0
"""Pauses before a move that was given up is tried again, each twice as long as the one before."""
NOT_OPEN_RETRY_MIN_S = 0.1
"""The first of them for a partition that is not open yet."""
SWITCH_RETRY_S = 0.05


class _Move:
    __slots__ = ("not_before", "pause_s", "slow_tries", "target")

    def __init__(self, target: int) -> None:
        self.target = target
        self.not_before = 0.0
        self.pause_s = 0.0
        self.slow_tries = 0


class Mover:
    """Follows the image from `start` to `stop`."""

    def __init__(
        self,
        node_id: int,
        broker_epoch: int,
        catalog: Catalog,
        image: MetadataImage,
        partitions: Partitions,
        storage: Storage,
        peers: Peers,
        now_ms: Callable[[], int],
    ) -> None:
        self._node_id = node_id
        self._broker_epoch = broker_epoch
        self._catalog = catalog
        self._image = image
        self._partitions = partitions
        self._storage = storage
        self._peers = peers
        self._now_ms = now_ms
        self._loop = asyncio.get_running_loop()
        self._moves: dict[Key, _Move] = {}
        self._woken = asyncio.Event()
        self._task = BackgroundTask(self._run, "handoff")
        self._unsubscribe: Callable[[], None] = lambda: None

    def start(self) -> None:
        self._unsubscribe = self._image.subscribe(self._changed)
        for topic in self._image.topics():
            self._note(topic)
        self._task.start()

    async def stop(self) -> None:
        """What is held stays so: the storage closes it. A move that the catalog has done is done."""
        self._unsubscribe()
        await self._task.stop()

    # -- what is to be moved ----------------------------------------------------------------------------------------
    def _changed(self, changes: Changes) -> None:
        for topic_id, topic in changes.topics.items():
            if topic is None:
                for key in [key for key in self._moves if key[0] == topic_id]:
                    del self._moves[key]
            else:
                self._note(topic)
        if changes.brokers and self._moves:
            self._woken.set()

    def _note(self, topic: TopicInfo) -> None:
        for partition in topic.partitions:
            key = (topic.topic_id, partition.index)
            if partition.leader != self._node_id or partition.target is None:
                self._moves.pop(key, None)
                continue
            move = self._moves.get(key)
            if move is None or move.target != partition.target:
                self._moves[key] = _Move(partition.target)
                self._woken.set()

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            due = self._due()
            if due:
                try:
                    await self._round(due)
                except (CatalogError, StorageError) as error:
                    log.warning("partitions are not handed over, trying again", error=str(error))
                    self._postpone(due)
                except Exception:
                    log.exception("handing over has a defect")
                    self._postpone(due)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._woken.wait()

    def _due(self) -> dict[Key, int]:
        """Moves to begin now, with their targets."""
        now = self._loop.time()
        due: dict[Key, int] = {}
        for key, move in self._moves.items():
            if move.not_before > now:
                continue
            if self._partitions.open_partition(*key) is None and not self._partitions.is_offline(*key):
                self._postpone([key], NOT_OPEN_RETRY_MIN_S)
                continue
            due[key] = move.target
            if len(due) == ROUND_MAX:
                break
        return due

    def _pause(self) -> float | None:
        if not self._moves:
            return None
        return max(0.0, min(move.not_before for move in self._moves.values()) - self._loop.time())

    def _postpone(self, keys: Iterable[Key], pause_min_s: float = RETRY_MIN_S) -> None:
        for key in keys:
            if (move := self._moves.get(key)) is not None:
                move.pause_s = min(max(2 * move.pause_s, pause_min_s), RETRY_MAX_S)
                move.not_before = self._loop.time() + move.pause_s

    # -- a round ----------------------------------------------------------------------------------------------------
    async def _round(self, moves: dict[Key, int]) -> None:
        usable = {broker.node_id for broker in self._image.brokers() if not broker.leaving} - {self._node_id}
        lost = set(moves.values()) - usable
        if lost:
            await self._forget(lost)
        moves = {key: target for key, target in moves.items() if target in usable}
        unreadable = [key for key in moves if self._partitions.shut(*key)]
        if unreadable:
            await self._give_away(unreadable)
            moves = {key: target for key, target in moves.items() if key not in unreadable}
        if not moves:
            return
        if await self._prepare(moves) > SLOW_UPLOAD_S:
            moves = self._without_patient(moves)
        held = self._hold(moves)
        self._postpone([key for key in moves if key not in held], NOT_OPEN_RETRY_MIN_S)
        if not held:
            return
        try:
            is_finished = await self._finish(held.values())
        except BaseException:
            self._go_on(held)
            raise
        if not is_finished:
            self._go_on(held)
            self._postpone(held)
            log.warning("partitions go on here: their upload took too long", partitions=len(held))
            return
        await self._switch(held, moves)

    async def _forget(self, targets: Collection[int]) -> None:
        """Targets that are not alive. A move that has another one by now is not touched."""
        await self._catalog.cancel_moves(self._node_id, targets)
        await self._image.refresh()

    async def _give_away(self, unreadable: Sequence[Key]) -> None:
        given = await self._hand_over(unreadable)
        if given is None:
            return
        await self._refresh()
        for key in unreadable:
            self._partitions.reopen(*key)
        self._postpone(key for key in unreadable if key[1] not in given.get(key[0], ()))
        log.warning("partitions that cannot be read here were handed over", partitions=len(unreadable))

    async def _prepare(self, moves: Mapping[Key, int]) -> float:
        """Returns how long the last upload took."""
        telling = asyncio.create_task(announce(self._peers, self._node_id, moves, handed_over=False))
        try:
            took_s = inf
            for _ in range(PRE_UPLOADS_MAX):
                before_s, begun_at = took_s, self._loop.time()
                await self._storage.upload_now()
                took_s = self._loop.time() - begun_at
                if took_s < QUICK_UPLOAD_S or took_s > before_s / 2:
                    break
            await telling
            return took_s
        finally:
            telling.cancel()

    def _without_patient(self, moves: Mapping[Key, int]) -> dict[Key, int]:
        """Those that have waited for a quicker store long enough; the others wait."""
        patient = []
        for key in moves:
            if (move := self._moves.get(key)) is not None and move.slow_tries < SLOW_TRIES_MAX:
                move.slow_tries += 1
                patient.append(key)
        self._postpone(patient)
        return {key: target for key, target in moves.items() if key not in patient}

    def _hold(self, moves: Mapping[Key, int]) -> dict[Key, Partition]:
        """Those whose target is still the same."""
        held = {}
        for key, target in moves.items():
            move = self._moves.get(key)
            partition = self._partitions.open_partition(*key)
            if move is not None and move.target == target and partition is not None:
                self._partitions.hold(partition)
                held[key] = partition
        return held

    async def _finish(self, held: Iterable[Partition]) -> bool:
        """Whether all of it is in objects."""
        now_ms = self._now_ms()
        try:
            async with asyncio.timeout(FINISH_MAX_S):
                for count, partition in enumerate(held, 1):
                    partition.save(now_ms)
                    if count % 50 == 0:
                        await asyncio.sleep(0)
                await self._storage.upload_now()
        except (TimeoutError, StorageError):
            return False
        return True

    def _go_on(self, held: Mapping[Key, Partition]) -> None:
        for partition in held.values():
            self._partitions.go_on(partition)

    async def _switch(self, held: Mapping[Key, Partition], moves: Mapping[Key, int]) -> None:
        ready = {key: each for key, each in held.items() if _is_committed(each)}
        unfit = {key: each for key, each in held.items() if key not in ready}
        self._go_on(unfit)
        self._postpone(unfit)
        given = await self._hand_over(ready)
        if given is None:
            return
        done = {key: moves[key] for key in ready if key[1] in given.get(key[0], ())}
        telling = asyncio.create_task(announce(self._peers, self._node_id, done, handed_over=True))
        try:
            await self._refresh()
            stays = {key: each for key, each in ready.items() if key not in done}
            self._go_on(stays)
            self._postpone(stays)
            if done:
                log.info("partitions handed over", partitions=len(done), to=sorted(set(done.values())))
            await telling
        finally:
            telling.cancel()

    async def _hand_over(self, ready: Iterable[Key]) -> Mapping[UUID, Iterable[int]] | None:
        """What this broker does not lead any more; None: it may not say, and its end is near."""
        partitions: dict[UUID, list[int]] = {}
        for topic_id, index in ready:
            partitions.setdefault(topic_id, []).append(index)
        while partitions:
            try:
                return await self._catalog.hand_over(self._node_id, self._broker_epoch, partitions)
            except BrokerFenced:
                return None
            except CatalogError as error:
                log.warning("no answer to handing over, asking again", error=str(error))
            await asyncio.sleep(SWITCH_RETRY_S)
        return {}

    async def _refresh(self) -> None:
        """What went has gone when the image knows; and what stays may have been away meanwhile, which it knows too."""
        while True:
            try:
                await self._image.refresh()
                return
            except CatalogError as error:
                log.warning("what was handed over is not known yet, asking again", error=str(error))
            await asyncio.sleep(SWITCH_RETRY_S)


def _is_committed(partition: Partition) -> bool:
    return all(stream.committed_offset == stream.next_offset for stream in partition.streams)
