"""Turns a locked directory into an empty log that is ready to be appended to."""

from __future__ import annotations

import dataclasses
import secrets

from wal.api import WalError, WalNotRecovered
from wal.file.checkpoint import CheckpointFile
from wal.file.files import Files
from wal.file.format import State
from wal.file.owner import claim
from wal.file.recovery import end_of_log, load_checkpoint
from wal.file.segments import SegmentPool


@dataclasses.dataclass(frozen=True, slots=True)
class FileWalSettings:
    segment_size: int = 64 << 20
    size_max: int = 2 << 30
    """All segments together; at least two are always allowed."""
    spare_count: int = 1
    """Segments prepared ahead."""
    kept_count: int = 8
    """Trimmed segments kept for reuse; more are removed."""

    def replace(self, **changes: int) -> FileWalSettings:
        return dataclasses.replace(self, **changes)


def open_directory(
    files: Files, epoch: int, settings: FileWalSettings, owner: str | None = None
) -> tuple[CheckpointFile, SegmentPool]:
    """Make the log if there is none, refuse one that holds records, and reserve its first segment.

    Raises WalNotRecovered, WalCorrupt, WalForeign, WalError for an epoch that is older than the log's, OSError.
    """
    claim(files, owner)
    checkpoint = load_checkpoint(files) or CheckpointFile.create(files, secrets.randbits(64))
    current = checkpoint.current
    try:
        if epoch < current.epoch:
            raise WalError(f"epoch {epoch} is older than the {current.epoch} of the log in {files.path}")
        end = end_of_log(files, checkpoint)
        if end > current.trim_position:
            raise WalNotRecovered(f"the log in {files.path} holds records that were not recovered")
        pool = SegmentPool(
            files,
            checkpoint,
            segment_size=settings.segment_size,
            segment_count_max=max(2, settings.size_max // settings.segment_size),
            spare_count=settings.spare_count,
            kept_count=max(settings.kept_count, settings.spare_count),
        )
        # In this order: until the old segments have new names, their headers still count under an equal epoch.
        if current.state is not State.DISCARDED:
            checkpoint.write(State.DISCARDED, epoch=current.epoch, trim_position=end, end_position=end, both=True)
        pool.adopt()
        checkpoint.write(State.OPEN, epoch=epoch, trim_position=end, end_position=end, both=True)
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint, pool
