"""Watches from outside what brokers confirm, the moment that they do; all that is acknowledged was confirmed before.

A broker that confirms is a leader: so two never confirm for one stream in overlapping times, nor under one stream
epoch, and what is confirmed only grows, whoever confirms. And it holds its lease, by the catalog's own clock: unless
its log is one of objects, which a seal ends. What the catalog took a commit of may be told at any time, even by a
broker that was paused before it heard the answer: every successor begins after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from s3stream.append_log import AppendLog
from s3stream.catalog.api import StreamInfo
from s3stream.stream import S3Stream

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
        self.begins: dict[int, dict[int, int]] = defaultdict(dict)
        """Stream id -> epoch -> where who opened it went on."""
        self.confirmed_count = self.withheld_count = 0

    def confirmed_by_commit(self, stream: Any) -> None:
        begins = self.begins[stream.stream_id]
        successor = min((epoch for epoch in begins if epoch > stream.epoch), default=None)
        if successor is None:
            self.confirmed(stream)
        elif stream.confirmed_offset > begins[successor]:
            told = f"stream {stream.stream_id}, epoch {stream.epoch}: {stream.confirmed_offset} was told"
            self.world.violation("rewritten", f"{told}, epoch {successor} began at {begins[successor]}")

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
    tell, on_durable, begin = AppendLog.tell, AppendLog.on_durable, S3Stream.__init__

    def observe_begin(self: S3Stream, info: StreamInfo, *arguments: Any) -> None:
        observer.begins[info.stream_id].setdefault(info.epoch, info.end_offset)
        begin(self, info, *arguments)

    def observe_tell(stream: Any) -> None:
        observer.confirmed_by_commit(stream)
        tell(stream)

    def observe_on_durable(self: AppendLog, position: int) -> None:
        due = {stream: stream.confirmed_offset for end, stream, _ in self.pending if end <= position}
        on_durable(self, position)
        for stream, offset in due.items():
            if stream.confirmed_offset > offset:
                observer.confirmed_by_log(stream)
        if due and not self.failed and self.pending and self.pending[0][0] <= position:
            observer.withheld_count += 1

    S3Stream.__init__ = observe_begin  # type: ignore[method-assign, assignment]
    AppendLog.tell = staticmethod(observe_tell)  # type: ignore[method-assign, assignment]
    AppendLog.on_durable = observe_on_durable  # type: ignore[method-assign]
    try:
        yield
    finally:
        S3Stream.__init__ = begin  # type: ignore[method-assign]
        AppendLog.tell = staticmethod(tell)  # type: ignore[method-assign]
        AppendLog.on_durable = on_durable  # type: ignore[method-assign]
