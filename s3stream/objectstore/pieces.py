"""Runs of small pieces as one buffer, for everything that costs per piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wal.api import Buffer

_JOIN_BELOW = 4096
_JOINED_SIZE = 65_536


def joined_runs(pieces: Sequence[Buffer]) -> Iterator[Buffer]:
    """The pieces themselves, not copied; runs of small ones joined."""
    run: list[Buffer] = []
    run_size = 0
    for piece in pieces:
        if len(piece) < _JOIN_BELOW:
            run.append(piece)
            run_size += len(piece)
            if run_size < _JOINED_SIZE:
                continue
            yield b"".join(run)
        else:
            if run:
                yield b"".join(run)
            yield piece
        run = []
        run_size = 0
    if run:
        yield b"".join(run)
