"""Whatever byte the power fails at, recovery returns a prefix of what was appended that holds all that was durable."""

from __future__ import annotations

import contextlib
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wal.sim_disk import PowerLost, SimDisk, SimFiles
from wal.file.format import State
from wal.file.opening import FileWalSettings, open_directory
from wal.file.reading import LogReader
from wal.file.recovery import load_checkpoint
from wal.file.segments import Segment, SegmentPool, SegmentWriter

SETTINGS = FileWalSettings(segment_size=4096, size_max=6 * 4096, kept_count=3)

Step = tuple[str, list[int]]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(0, 900), min_size=1, max_size=5)),
        st.tuples(st.just("trim"), st.lists(st.integers(0, 100), min_size=1, max_size=1)),
    ),
    max_size=30,
)
LIVES = st.lists(st.tuples(STEPS, st.one_of(st.none(), st.integers(0, 20_000))), min_size=1, max_size=4)


class Model:
    """What a reader of the log may and must find."""

    def __init__(self) -> None:
        self.appended: list[tuple[int, int, bytes]] = []
        self.durable = 0
        self.trimmed = 0
        self.end = 0


def live(files: SimFiles, epoch: int, steps: list[Step], model: Model, rng: random.Random) -> None:
    files.lock()
    checkpoint, pool = open_directory(files, epoch, SETTINGS)
    assert checkpoint.current.end_position >= model.durable
    model.appended.clear()
    model.end = model.durable = model.trimmed = checkpoint.current.end_position

    def take() -> Segment:
        while pool.ready.empty():
            if not pool.prepare():
                raise BlockingIOError
        segment = pool.ready.get()
        assert segment is not None
        return segment

    writer = SegmentWriter(
        take,
        pool.seal,
        log_id=checkpoint.current.log_id,
        epoch=epoch,
        position=model.end,
        segment_size=SETTINGS.segment_size,
    )
    for kind, numbers in steps:
        if kind == "append":
            append(writer, numbers, model, rng)
        else:
            trim(pool, numbers[0], model)
    checkpoint.write(State.CLEAN, epoch=epoch, trim_position=model.trimmed, end_position=model.durable, both=True)
    files.close()


def append(writer: SegmentWriter, sizes: list[int], model: Model, rng: random.Random) -> None:
    records = [rng.randbytes(size) for size in sizes]
    mark = len(model.appended)
    for record in records:
        model.appended.append((model.end, model.end + len(record) + 4, record))
        model.end += len(record) + 4
    try:
        for position in writer.write([(record[:7], record[7:]) for record in records], sizes):
            model.durable = position
    except BlockingIOError:
        # The log is full: what was not written is forgotten, as by a crash.
        del model.appended[mark:]
        model.end = model.durable
        raise PowerLost from None


def trim(pool: SegmentPool, percent: int, model: Model) -> None:
    position = model.durable * percent // 100
    if position > model.trimmed:
        model.trimmed = position
        pool.release(position, model.durable)
        pool.prepare()


def recover(files: SimFiles, model: Model) -> None:
    files.lock()
    checkpoint = load_checkpoint(files)
    if checkpoint is None:
        assert model.durable == 0
        files.close()
        return
    reader = LogReader(files, checkpoint.current)
    found = [(record.position, record.end, bytes(record.data)) for chunk in reader.records() for record in chunk]
    wanted = [record for record in model.appended if record[1] > model.trimmed and record[1] <= model.durable]
    assert all(record in found for record in wanted)
    if found:
        first = model.appended.index(found[0])
        assert found == model.appended[first : first + len(found)]
    model.appended.clear()
    model.durable = model.trimmed = reader.end_position
    checkpoint.write(
        State.DISCARDED,
        epoch=checkpoint.current.epoch,
        trim_position=reader.end_position,
        end_position=reader.end_position,
        both=True,
    )
    files.close()


@settings(max_examples=150, deadline=None)
@given(LIVES, st.integers(0, 2**32), st.booleans())
def test_recovery_returns_a_prefix_with_everything_durable(
    lives: list[tuple[list[Step], int | None]], seed: int, same_epoch: bool
) -> None:
    rng = random.Random(seed)
    disk = SimDisk(rng)
    model = Model()
    for life, (steps, budget) in enumerate(lives):
        disk.write_budget = budget
        with contextlib.suppress(PowerLost):
            live(SimFiles(disk), 1 if same_epoch else life + 1, steps, model, rng)
        disk.restart()
        recover(SimFiles(disk), model)
