"""One member on its way from what it has to what it should have. KIP-848.

    STABLE ----------- target changed, it owns what it should not ------> UNREVOKED_PARTITIONS
    STABLE ----------- target changed, others still own its partitions -> UNRELEASED_PARTITIONS
    UNREVOKED -------- the member says that it has given them up -------> STABLE or UNRELEASED, at the next epoch
    UNRELEASED ------- the others have given up ------------------------> STABLE

Invariant: a partition is in `assigned` or `revoking` of one member at most. It gets into `assigned` only where nobody
owns it, and leaves a member only when the member itself has said that it does not own it any more (or is a member no
longer).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from broker.coordinator.group.consumer.values import (
    NOTHING_OWNED,
    Assignment,
    CurrentAssignment,
    MemberState,
    overlap,
)

IsFree = Callable[[bytes, int], bool]
"""Whether a partition is owned by no member, this one included."""


def reconcile(
    current: CurrentAssignment,
    target_epoch: int,
    target: Assignment,
    is_free: IsFree,
    owned: Assignment | None,
    subscribed: Collection[bytes] | None,
    *,
    joining: bool = False,
) -> CurrentAssignment:
    """The member's next step; the very same object if there is none.

    `owned` is what the member says that it owns; None: it does not say. Only one that joins is taken at its word at
    once: any other may be about to take what it was told before, and has to hear first that it should not.
    `subscribed` are the ids of the topics it is subscribed to, if that has just changed (the target may not know
    yet): nothing of others is given or left to it.
    """
    if subscribed is not None:
        target = {topic_id: partitions for topic_id, partitions in target.items() if topic_id in subscribed}
    if current.state is MemberState.STABLE and current.epoch == target_epoch:
        if subscribed is None or current.assigned.keys() <= set(subscribed):
            return current
    elif current.state is MemberState.UNREVOKED_PARTITIONS and (owned is None or overlap(owned, current.revoking)):
        return current
    return _advance(current, target_epoch, target, is_free, owned if joining else None)


def _advance(
    current: CurrentAssignment, target_epoch: int, target: Assignment, is_free: IsFree, owned: Assignment | None
) -> CurrentAssignment:
    kept: dict[bytes, dict[int, int]] = {}
    revoking: dict[bytes, dict[int, int]] = {}
    for topic_id, epochs in current.assigned.items():
        wanted = target.get(topic_id, frozenset())
        for index, epoch in epochs.items():
            (kept if index in wanted else revoking).setdefault(topic_id, {})[index] = epoch
    if revoking and (owned is None or overlap(owned, revoking)):
        return CurrentAssignment(current.epoch, current.epoch, MemberState.UNREVOKED_PARTITIONS, kept, revoking)
    given_up = current.revoking
    unreleased = False
    for topic_id, partitions in target.items():
        had = kept.get(topic_id, NOTHING_OWNED)
        for index in partitions:
            if index in had:
                continue
            if index in given_up.get(topic_id, NOTHING_OWNED) or is_free(topic_id, index):
                kept.setdefault(topic_id, {})[index] = target_epoch
            else:
                unreleased = True
    state = MemberState.UNRELEASED_PARTITIONS if unreleased else MemberState.STABLE
    following = CurrentAssignment(target_epoch, current.epoch, state, kept)
    return current if following == current else following
