"""From append to confirmed: the one queue between the streams and the WAL.

Every appended batch leaves one entry (WAL end position, stream, end offset) here. When the WAL reports a durable
position, the entries up to it are popped, each touched stream's `confirmed_offset` moves once and its `on_confirmed`
is called once: no future and no task per append. A stream that is confirmed by its commits only has its
`durable_offset` moved here; the commit does the rest.

A flush counts only if `may_confirm()` is true *after* it (the broker's lease, checked on the monotonic clock): a broker
that was paused and resumed confirms nothing that its successor did not see. While it is false nothing is confirmed, and
the question is asked again every `lease_recheck_ms`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from s3stream.log_cache import LogCache
from s3stream.settings import StorageSettings
from s3stream.watermark import Watermark
from wal.api import Wal

if TYPE_CHECKING:
    from s3stream.stream import S3Stream

log = structlog.get_logger()


class AppendLog:
    """What the streams of one storage share on their append path."""

    __slots__ = (
        "_held_back",
        "_may_confirm",
        "_recheck",
        "_recheck_delay",
        "appended_limit",
        "cache",
        "confirmed",
        "failed",
        "pending",
        "wal",
        "wal_append",
    )

    def __init__(self, wal: Wal, cache: LogCache, may_confirm: Callable[[], bool], settings: StorageSettings) -> None:
        self.wal = wal
        self.wal_append = wal.append
        self.cache = cache
        self.appended_limit = settings.unuploaded_size_max
        """Appends are refused while `cache.appended` is at or above it; moves with every commit."""
        self.pending: deque[tuple[int, S3Stream, int]] = deque()
        self.confirmed = Watermark(wal.durable_position)
        """The WAL position up to which everything is confirmed, or may be once it is committed."""
        self.failed = False
        self._may_confirm = may_confirm
        self._held_back = False
        self._recheck: asyncio.TimerHandle | None = None
        self._recheck_delay = settings.lease_recheck_ms / 1000

    def on_durable(self, position: int) -> None:
        """The WAL's listener."""
        if self.failed:
            return
        if not self._may_confirm():
            if not self._held_back:
                self._held_back = True
                log.warning("appends are durable but may not be confirmed", durable_position=position)
            if self._recheck is None:
                self._recheck = asyncio.get_running_loop().call_later(self._recheck_delay, self._ask_again)
            return
        if self._held_back:
            self._held_back = False
            log.info("appends are confirmed again", durable_position=position)
        pending = self.pending
        touched: dict[S3Stream, int] = {}
        while pending and pending[0][0] <= position:
            _, stream, end_offset = pending.popleft()
            touched[stream] = end_offset
        awaiting = False
        for stream, end_offset in touched.items():
            if stream.tail.awaits_commit:
                stream.durable_offset = end_offset
                awaiting = True
            else:
                stream.confirmed_offset = end_offset
        if awaiting:
            touched = {stream: end_offset for stream, end_offset in touched.items() if not stream.tail.awaits_commit}
        self.confirmed.advance(position)
        for stream in touched:
            # as `tell`, without the call: this is the hot path
            if (listener := stream.on_confirmed) is not None:
                try:
                    listener()
                except Exception as error:
                    _report(stream, error)

    @staticmethod
    def tell(stream: S3Stream) -> None:
        """Its `confirmed_offset` moved."""
        if (listener := stream.on_confirmed) is not None:
            try:
                listener()
            except Exception as error:
                _report(stream, error)

    def _ask_again(self) -> None:
        self._recheck = None
        self.on_durable(self.wal.durable_position)

    def fail(self, error: Exception) -> None:
        """Nothing is confirmed any more."""
        self.failed = True
        self.pending.clear()
        self.confirmed.fail(error)
        self.stop()

    def stop(self) -> None:
        if self._recheck is not None:
            self._recheck.cancel()
            self._recheck = None


def _report(stream: S3Stream, error: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler(
        {"message": f"the confirmed listener of stream {stream.stream_id} failed", "exception": error}
    )
