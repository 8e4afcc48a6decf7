"""How a read_committed consumer turns what a fetch returned into records: by markers and the aborted transactions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from protocol.records import iter_batches, parse_end_txn_marker
from wal.api import Buffer


def visible_offsets(buffers: Iterable[Buffer], aborted: Sequence[tuple[int, int]], fetch_offset: int) -> list[int]:
    """Offsets of the records that the consumer delivers; `aborted` is (producer id, first offset)."""
    pending = sorted((first_offset, producer_id) for producer_id, first_offset in aborted)
    aborting: set[int] = set()
    visible: list[int] = []
    for buffer in buffers:
        for header, batch in iter_batches(buffer):
            while pending and pending[0][0] <= header.last_offset:
                aborting.add(pending.pop(0)[1])
            if header.is_control:
                marker = parse_end_txn_marker(batch)
                if marker is not None and not marker.committed:
                    aborting.discard(header.producer_id)
            elif not (header.is_transactional and header.producer_id in aborting):
                visible += range(max(header.base_offset, fetch_offset), header.next_offset)
    return visible
