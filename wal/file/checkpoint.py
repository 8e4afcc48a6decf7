"""Keeps the checkpoint file: log id, epoch, trim position, state. Layout in `wal.file.format`."""

from __future__ import annotations

from wal.api import WalCorrupt
from wal.file.files import File, Files
from wal.file.format import CHECKPOINT_NAME, CHECKPOINT_SIZE, SLOT_POSITIONS, SLOT_SIZE, Checkpoint, State
from wal.file.machine import this_machine

_NEW_NAME = CHECKPOINT_NAME + ".new"


class CheckpointFile:
    """Used by one thread at a time, of whoever holds the log's lock. `current` is what was last read or written."""

    def __init__(self, file: File, current: Checkpoint) -> None:
        self._file = file
        self.current = current

    @classmethod
    def create(cls, files: Files, log_id: int) -> CheckpointFile:
        """Written aside and renamed, so that there is never a checkpoint without an intact slot."""
        if _NEW_NAME in files.names():
            files.remove(_NEW_NAME)
        file = files.create(_NEW_NAME, CHECKPOINT_SIZE, fill=True)
        checkpoint = cls(file, Checkpoint(State.DISCARDED, 0, log_id, 0, 0, 0))
        checkpoint.write(State.DISCARDED, epoch=0, trim_position=0, end_position=0, both=True)
        files.rename(_NEW_NAME, CHECKPOINT_NAME)
        files.sync()
        return checkpoint

    @classmethod
    def load(cls, files: Files) -> CheckpointFile | None:
        """None if there is no checkpoint. Raises WalCorrupt if it has no intact slot."""
        if CHECKPOINT_NAME not in files.names():
            return None
        file = files.open(CHECKPOINT_NAME)
        try:
            return cls(file, _newest_slot(files, file))
        except BaseException:
            file.close()
            raise

    def write(self, state: State, *, epoch: int, trim_position: int, end_position: int, both: bool = False) -> None:
        """Into the older slot; with `both` into the other one as well, so that damage to one of them costs nothing."""
        for _ in range(2 if both else 1):
            generation = self.current.generation + 1
            new = Checkpoint(state, generation, self.current.log_id, epoch, trim_position, end_position, this_machine())
            self._file.write([new.encode()], SLOT_POSITIONS[generation % 2])
            self.current = new

    def close(self) -> None:
        self._file.close()


def read_checkpoint(files: Files) -> Checkpoint | None:
    """What the checkpoint says now; None if there is none. Raises WalCorrupt, OSError."""
    if CHECKPOINT_NAME not in files.names():
        return None
    file = files.open(CHECKPOINT_NAME)
    try:
        return _newest_slot(files, file)
    finally:
        file.close()


def _newest_slot(files: Files, file: File) -> Checkpoint:
    slots = [Checkpoint.decode(file.read(position, SLOT_SIZE)) for position in SLOT_POSITIONS]
    intact = [slot for slot in slots if slot is not None]
    if not intact:
        raise WalCorrupt(
            f"{files.path}/{CHECKPOINT_NAME}: both slots are damaged (byte 0 and byte {SLOT_POSITIONS[1]})"
        )
    return max(intact, key=lambda slot: slot.generation)
