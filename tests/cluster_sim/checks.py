"""What must hold when everything has been healed: the clients' history, the catalog, the bucket, the processes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from bench.history import Assignment, History, Seen, check
from protocol.records import iter_batches
from tests.cluster_sim.clients import _UNAVAILABLE, Client, take
from tests.cluster_sim.kernel import Process
from tests.cluster_sim.services import at_once

if TYPE_CHECKING:
    from tests.cluster_sim.world import World

READ_MAX_S = 200.0


@dataclass(slots=True)
class CompleteRead:
    """`batches`: (partition, base offset, leader epoch)."""

    log: list[Seen] = field(default_factory=list)
    batches: list[tuple[int, int, int]] = field(default_factory=list)


async def read_everything(world: World) -> CompleteRead:
    """All partitions from their starts to their ends, from their leaders."""
    reader = Client(world, "checker")
    read = CompleteRead()
    deadline = world.kernel.now + READ_MAX_S
    await _agree_on_leaders(world, reader, deadline)
    for partition in range(world.partition_count):
        position, end = 0, -1
        while position != end:
            if world.kernel.now > deadline:
                world.violation("stuck", f"partition {partition} cannot be read on from {position} to {end}")
                return read
            try:
                await reader.learn_leaders()
                found = await reader.fetch(reader.choose(partition, 0.0), partition, position, 0)
            except _UNAVAILABLE:
                await asyncio.sleep(0.05)
                continue
            if found.error_code:
                await asyncio.sleep(0.05)
                continue
            end = found.high_watermark
            for header, _ in iter_batches(memoryview(found.records or b"")):
                read.batches.append((partition, header.base_offset, header.partition_leader_epoch))
            position = take(found.records, partition, position, read.log.append)
    reader.close()
    return read


async def _agree_on_leaders(world: World, reader: Client, deadline: float) -> None:
    """Until every broker says what the catalog does. One that lost an answer knows no better before it asks again: it
    sends clients to itself, and they find the end where it was when it handed over."""
    for node_id, node in world.nodes.items():
        while node.is_up:
            with suppress(*_UNAVAILABLE):
                await reader.learn_leaders(node_id)
                if reader.leaders == {each.index: each.leader for each in world.topic().partitions}:
                    break
            if world.kernel.now > deadline:
                world.violation("stuck", f"node {node_id} says that {reader.leaders} lead")
                return
            await asyncio.sleep(0.05)


def check_history(world: World, read: CompleteRead) -> None:
    log = read.log
    history = History(
        sends=[send for producer in world.producers for send in producer.sends],
        log=log,
        assignments=[
            Assignment(each.consumer, each.partition, None, each.seen)
            for reader in world.readers
            for each in reader.assignments
        ],
    )
    for found in check(history):
        world.violation(found.kind, found.detail)
    ends: dict[int, int] = defaultdict(int)
    for record in log:
        ends[record.partition] = max(ends[record.partition], record.offset + 1)
    for reader in world.readers:
        for partition, high_watermark in reader.high_watermarks.items():
            if high_watermark > ends[partition]:
                world.violation("lost", f"partition {partition} ends at {ends[partition]}, was {high_watermark}")
    _check_leader_epochs(world, read)
    world.counters["records"] = len(log)
    world.counters["records read"] = sum(len(each.seen) for each in history.assignments)


def _check_leader_epochs(world: World, read: CompleteRead) -> None:
    """They never go back within a partition, and under each of them one broker acknowledged."""
    streams = {info.index: info.log_stream_id for info in world.topic().partitions}
    latest: dict[int, int] = defaultdict(int)
    leaders: dict[tuple[int, int], str] = {}
    for partition, offset, epoch in read.batches:
        if epoch < latest[partition]:
            world.violation("leader epoch", f"partition {partition}: {epoch} at {offset} follows {latest[partition]}")
        latest[partition] = epoch
        confirmed = world.observer.who_confirmed(streams[partition], offset)
        if confirmed is not None:
            leader = leaders.setdefault((partition, epoch), confirmed.host)
            if leader != confirmed.host:
                what = f"{leader} and {confirmed} confirmed under leader epoch {epoch}"
                world.violation("two leaders", f"partition {partition} at {offset}: {what}")


def check_catalog(world: World) -> None:
    """After clean stops: nothing is open, every stream is whole, every object is there."""
    if any(node.is_gone for node in world.nodes.values()):
        world.counters["nodes gone for good"] += 1

    catalog = world.metadata
    for broker in (*at_once(catalog.brokers()), *at_once(catalog.unrecovered())):
        node = world.nodes[broker.node_id]
        # one that was stopped before it served leaves its registration to its lease
        if not broker.closed and not node.is_gone and (broker.fenced or node.has_served):
            world.violation("catalog", f"{broker} is not closed")
    partitions = [
        each for topic in at_once(catalog.load_changes(0)).topics.values() if topic for each in topic.partitions
    ]
    stream_ids = [each for info in partitions for each in (info.log_stream_id, info.state_stream_id)]
    held: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for found in at_once(catalog.live_objects(stream_ids)):
        stored = world.store.objects.get(f"objects/{found.key}")
        if stored is None or len(stored) != found.size:
            world.violation("bucket", f"object {found.key} of {found.size} bytes is missing, or another one")
        for part in found.ranges:
            held[part.stream_id].append((part.start_offset, part.end_offset))
    for info in at_once(catalog.stream_infos(stream_ids)):
        if info.open:
            world.violation("catalog", f"{info} is open")
        ranges = sorted(held[info.stream_id])
        for before, after in pairwise(ranges):
            if before[1] != after[0]:
                world.violation("catalog", f"stream {info.stream_id}: {before} is followed by {after}")
        if info.end_offset > info.start_offset and (
            not ranges or ranges[0][0] > info.start_offset or ranges[-1][1] != info.end_offset
        ):
            world.violation("catalog", f"{info} is held in {ranges}")


def check_leaks(world: World, process: Process) -> None:
    """A process that ended by itself leaves no task, no thread, no lock and no connection."""
    tasks = [task for task in asyncio.all_tasks(process.loop) if not task.done()]
    current = [task for task in tasks if task.get_name() == "exiting"]
    if len(tasks) > len(current):
        world.violation("leak", f"{process.name} leaves tasks: {sorted(str(task.get_coro()) for task in tasks)}")
    has_served = any(node.process is process and node.has_served for node in world.nodes.values())
    # one that was stopped while it opened its log leaves that to the end of the process, which waits for a slow disk
    if has_served and process.thread_count:
        world.violation("leak", f"{process.name} leaves {process.thread_count} threads")
    for directory in world.disks.directories.values():
        if has_served and process in directory.holders:
            world.violation("leak", f"{process.name} leaves {directory.path} locked")
    for context in process.loop.errors:
        error = context.get("exception")
        world.violation("unseen error", f"{process.name}: {context['message']} {error!r}", error)


_EXPECTED_ERRORS = (
    "storage failed",
    "partitions stay offline: write-ahead log of a dead broker not recovered",
)


def check_logged(world: World) -> None:
    """Nobody logged what must not happen."""
    for when, name, entry in world.machine.errors:
        event = str(entry.get("event"))
        if event not in _EXPECTED_ERRORS or "InvariantBroken" in str(entry):
            error = entry.get("exc_info")
            world.violation(
                "logged", f"{name} at {when:.3f}: {entry}", error if isinstance(error, BaseException) else None
            )
