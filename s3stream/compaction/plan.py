"""What is worth rewriting. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from s3stream.catalog.api import SetObject

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """How small is small. Sizes in bytes."""

    split_size: int = MIB
    """What a rewriting of set objects finds of one stream becomes an object of its own from this size on."""
    target_size: int = 32 * MIB
    """The most that is merged into one stream object."""
    tiers: tuple[tuple[int, int], ...] = ((64 * KIB, 512 * KIB), (512 * KIB, 4 * MIB), (4 * MIB, 16 * MIB))
    """(a, b): ranges smaller than a are merged when together they have b, so that every merge lifts every byte by a
    tier. What the last tier does not take is large, and not merged any more. b is at most half of the target."""
    run_count_max: int = 32
    """... or when there are so many of them side by side."""
    fan_in: int = 10
    """Set objects of one generation that hold the same stream before they are merged."""
    sources_max: int = 16
    """Set objects that are read at the same time."""
    generation_max: int = 3
    """What was rewritten so often is split into stream objects, whatever the size of a stream's part."""
    job_size: int = 128 * MIB
    """Bytes of set objects after which a job commits what it has."""

    @property
    def set_size(self) -> int:
        """The size of set objects that are made: half a target, because two outputs are in memory at the same time."""
        return self.target_size // 2


@dataclass(frozen=True, slots=True)
class SetPlan:
    """`split_all`: into stream objects only. `urgency` is 1.0 when the work is due, and grows with what waits."""

    sources: tuple[SetObject, ...]
    generation: int
    split_all: bool
    urgency: float


def plan_sets(sets: Iterable[SetObject], limits: Limits, age_ms_max: int) -> SetPlan | None:
    """The oldest objects of the lowest generation that is due, or those that came of age."""
    generations: dict[int, list[SetObject]] = {}
    aged: list[SetObject] = []
    for each in sorted(sets, key=lambda each: each.object_id):
        generations.setdefault(min(each.generation, limits.generation_max), []).append(each)
        if each.age_ms >= age_ms_max:
            aged.append(each)
    for generation, found in sorted(generations.items()):
        depth, stream_id = deepest(found)
        if depth >= limits.fan_in:
            sources = [each for each in found if each.first_stream_id <= stream_id <= each.last_stream_id]
            split_all = generation >= limits.generation_max
            return SetPlan(tuple(sources[: limits.sources_max]), generation + 1, split_all, depth / limits.fan_in)
    if aged:
        return SetPlan(tuple(aged[: limits.sources_max]), limits.generation_max, True, 1.0)
    return None


def deepest(sets: Sequence[SetObject]) -> tuple[int, int]:
    """How many of these the stream with the most of them may be in, and its id."""
    edges = sorted(
        [(each.first_stream_id, -1) for each in sets] + [(each.last_stream_id, 1) for each in sets],
    )
    depth = found = stream_id = 0
    for at, closing in edges:
        depth -= closing
        if depth > found:
            found, stream_id = depth, at
    return found, stream_id


def plan_merge(sizes: Sequence[int], mergeable: Sequence[bool], limits: Limits) -> tuple[int, int] | None:
    """Which neighbours, [first, stop), to merge: a run of the lowest tier that is due. `sizes` in order of offsets."""
    for bound, due in limits.tiers:
        first = total = 0
        for i, size in enumerate(sizes):
            if not mergeable[i] or size >= bound or (i > first and total + size > limits.target_size):
                if _is_due(i - first, total, due, limits):
                    return first, i
                keeps = mergeable[i] and size < bound
                first, total = (i, size) if keeps else (i + 1, 0)
                continue
            total += size
        if _is_due(len(sizes) - first, total, due, limits):
            return first, len(sizes)
    return None


def count_settled(sizes: Sequence[int], mergeable: Sequence[bool], limits: Limits) -> int:
    """How many of the first ranges need no further look once nothing is due: those up to the last large one, if all of
    them are the stream's own. A run behind it may go on, and a set object may yet become small ranges."""
    settled = 0
    for number, (size, is_own) in enumerate(zip(sizes, mergeable, strict=True), 1):
        if not is_own:
            break
        if size >= limits.tiers[-1][0]:
            settled = number
    return settled


def _is_due(count: int, total: int, due: int, limits: Limits) -> bool:
    return count >= 2 and (total >= due or count >= limits.run_count_max)
