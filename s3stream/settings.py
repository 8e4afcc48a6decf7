"""The storage's limits and intervals, each with the reason for its default."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024
FETCH_MEMORY_MAX = 64 * MIB


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """The defaults keep a loaded broker below 700 MB; see docs/memory.md.

    Sizes of un-uploaded and cached data are accounted sizes: payload plus a constant for each batch.
    """

    cache_size_max: int = 256 * MIB
    """Log cache: un-uploaded data plus what stays in memory for tail reads after its upload."""
    block_cache_size_max: int = 96 * MIB
    """Blocks that were read from objects. A quarter of it may be in flight besides, for readers that go on."""
    fetch_memory_max: int = FETCH_MEMORY_MAX
    """Fetch responses that are being read from objects, or that clients have not taken."""
    block_size: int = 32 * MIB
    """A block of the log cache, hence a stream set object, is uploaded when it is this large. Larger blocks cost fewer
    PUTs and more memory in flight."""
    upload_split_size: int = 4 * MIB
    """A part of a block that is at least this large becomes an object of its own stream, which compaction then need not
    split."""
    upload_interval_ms: int = 1000
    """... or this old. It bounds the loss window of `durability=wal` on the loss of the disk; one PUT a second and
    broker is about 13 $ a month on S3."""
    uploads_in_flight_max: int = 3
    """PUTs in parallel. Commits stay in order."""
    pressure_high_size: int = 160 * MIB
    """Un-uploaded bytes at which producers are paused ..."""
    pressure_low_size: int = 112 * MIB
    """... and at which they may go on."""
    unuploaded_size_max: int = 240 * MIB
    """Un-uploaded bytes at which an append is refused with StorageFull."""
    object_ids_ahead: int = 16
    """Object ids registered ahead of their use, so that no upload waits for the catalog before its PUT."""
    object_id_age_max_ms: int = 600_000
    """A registered id older than this is not used any more: it comes near the age at which the cleaner takes it for
    abandoned."""
    retry_backoff_ms: int = 50
    retry_backoff_max_ms: int = 5_000
    """Store and catalog errors are retried for as long as it takes, with these (jittered, doubling) pauses."""
    lease_recheck_ms: int = 20
    """How often a broker that may not confirm looks whether it may again."""
    clean_interval_ms: int = 60_000
    """Between two looks for abandoned and deleted objects."""
    abandoned_age_ms: int = 3_600_000
    """A prepared object that was not committed for so long is an orphan. Far above `object_id_age_max_ms`."""
    retired_age_ms: int = 600_000
    """What was trimmed, deleted or replaced by compaction stays in the bucket for so long, for readers that found it
    before. A reader that comes later looks again."""
    compaction_interval_ms: int = 5_000
    """Between two looks for objects to rewrite, while nothing is due."""
    compaction_rate: int = 32 * MIB
    """Bytes a second that compaction reads and writes, more when much is due: below what clients read."""
    set_object_age_ms_max: int = 86_400_000
    """Set objects are split at this age: until then one may hold what was deleted of one stream, for the sake of
    another."""
    clean_objects_max: int = 1000
    """Objects removed by one statement; also what one S3 DeleteObjects takes."""

    def __post_init__(self) -> None:
        if not 0 < self.pressure_low_size <= self.pressure_high_size <= self.unuploaded_size_max <= self.cache_size_max:
            raise ValueError(
                "0 < pressure_low_size <= pressure_high_size <= unuploaded_size_max <= cache_size_max must hold"
            )
        if not 0 < self.block_size * 2 <= self.cache_size_max:
            raise ValueError("block_size must be at most half of cache_size_max")
        if self.object_id_age_max_ms * 2 > self.abandoned_age_ms:
            raise ValueError("abandoned_age_ms must be at least twice object_id_age_max_ms")
