"""Watches from outside what brokers confirm, the moment that they do; all that is acknowledged was confirmed before.

A broker that confirms is a leader: so two never confirm for one stream in overlapping times, nor under one stream
epoch, and what is confirmed only grows, whoever confirms. And it holds its lease, by the catalog's own clock: unless
its log is one of objects, which a seal ends, or the catalog itself has just taken a commit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from s3stream.append_log import AppendLog

if TYPE_CHECKING:
    from tests.cluster_sim.world import World


@dataclass(slots=True)
class Confirmed:
    """Of one stream: by whom, under which epoch, up to where."""

    process: str
    host: str
    epoch: int
    offset: int


class Observer:
    def __init__(self, world: World) -> None:
        self.world = world
        self.history: dict[int, list[Confirmed]] = defaultdict(list)
        """Stream id -> what was confirmed, in the order in which that happened."""
        self.confirmed_count = self.withheld_count = 0

    def confirmed_by_log(self, stream: Any) -> None:
        self.confirmed(stream)
        world = self.world
        process = world.kernel.current
        assert process is not None
        node = next(node for node in world.nodes.values() if node.process is process)
        if node.wal_kind != "object" and world.catalog.lease_of(stream._owner._broker_epoch) <= 0:
            world.violation("lease", f"{process.name} confirms without its lease")

    def confirmed(self, stream: Any) -> None:
        self.confirmed_count += 1
        world = self.world
        process = world.kernel.current
        assert process is not None
        now = Confirmed(process.name, process.host, stream.epoch, stream.confirmed_offset)
        history = self.history[stream.stream_id]
        before = history[-1] if history else None
        history.append(now)
        if before is None:
            return
        if now.epoch < before.epoch or (now.epoch == before.epoch and now.process != before.process):
            world.violation("two leaders", f"stream {stream.stream_id}: {now} after {before}")
        elif now.offset < before.offset:
            world.violation("rewritten", f"stream {stream.stream_id}: {now} after {before}")

    def who_confirmed(self, stream_id: int, offset: int) -> Confirmed | None:
        """None: nobody that is known for sure; what a recovery found may never have been confirmed."""
        for before, after in pairwise(self.history[stream_id]):
            if before.offset <= offset < after.offset:
                return after if before.epoch == after.epoch else None
        return None


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    tell, on_durable = AppendLog.tell, AppendLog.on_durable

    def observe_tell(stream: Any) -> None:
        observer.confirmed(stream)
        tell(stream)

    def observe_on_durable(self: AppendLog, position: int) -> None:
        due = {stream: stream.confirmed_offset for end, stream, _ in self.pending if end <= position}
        on_durable(self, position)
        for stream, offset in due.items():
            if stream.confirmed_offset > offset:
                observer.confirmed_by_log(stream)
        if due and not self.failed and self.pending and self.pending[0][0] <= position:
            observer.withheld_count += 1

    AppendLog.tell = staticmethod(observe_tell)  # type: ignore[method-assign, assignment]
    AppendLog.on_durable = observe_on_durable  # type: ignore[method-assign]
    try:
        yield
    finally:
        AppendLog.tell = staticmethod(tell)  # type: ignore[method-assign]
        AppendLog.on_durable = on_durable  # type: ignore[method-assign]
