"""How a consumer group gets on: from a change of members or topics to a group epoch, to a target assignment, to what
one member may own; and what becomes of members that are silent, or slow to give up partitions.

Everything here is set off by a request (`heartbeat`, `classic_members`) or by a timer, which looks the group up
again. Pure: timers are virtual, time comes in with the `Outcome`, topics with `Topics`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from broker.coordinator.group.consumer.assignors import ASSIGNORS
from broker.coordinator.group.consumer.assignors.api import Subscriber
from broker.coordinator.group.consumer.change import Change
from broker.coordinator.group.consumer.config import ConsumerGroupConfig
from broker.coordinator.group.consumer.group import ConsumerGroup
from broker.coordinator.group.consumer.migration import downgrade_record
from broker.coordinator.group.consumer.reconciliation import reconcile
from broker.coordinator.group.consumer.records import Current, GroupEpoch, Member, Regex, Target, TargetEpoch
from broker.coordinator.group.consumer.topics import Topics, metadata_hash
from broker.coordinator.group.consumer.values import Assignment, MemberState, ResolvedRegex
from broker.coordinator.group.rebalance import Rebalancing
from broker.coordinator.group.table import GroupTable
from broker.coordinator.machine import Outcome, ShardTimers


class Progress:
    """`table` is the table of the shard, which `replay` changes. `classic_size_max` bounds what may turn into a classic
    group, which `classic` makes rebalance."""

    def __init__(
        self,
        table: GroupTable,
        timers: ShardTimers,
        config: ConsumerGroupConfig,
        classic_size_max: int,
        topics: Topics,
        classic: Rebalancing,
    ) -> None:
        self._table = table
        self._timers = timers
        self._config = config
        self._classic_size_max = classic_size_max
        self._topics = topics
        self._classic = classic

    def loaded(self) -> None:
        """Sessions begin anew under this coordinator, and so does the time for giving up partitions."""
        for group in self._table.consumer_groups():
            for member_id in group.members:
                self._schedule_session(group, member_id)
                if group.current_of(member_id).state is MemberState.UNREVOKED_PARTITIONS:
                    self._schedule_rebalance(group, member_id)

    # -- the group ----------------------------------------------------------------------------------------------------
    def _follow(self, change: Change, live: ConsumerGroup | None, subscription_changed: bool) -> None:
        """Resolve regular expressions, and begin a group epoch if anything calls for another assignment. `live` is
        the group in the table; it remembers up to which change of the topics it has been looked at."""
        generation = self._topics.generation
        group = change.group
        if not subscription_changed and group.checked_generation == generation:
            return
        resolved = self._resolve(change)
        group = change.group
        if live is not None:
            live.checked_generation = generation
        group.checked_generation = generation
        digest = metadata_hash(self._topics, group.subscribed_topics())
        if subscription_changed or resolved or digest != group.metadata_hash:
            change.write(GroupEpoch(group.group_id, (group.epoch + 1, digest)))

    def _resolve(self, change: Change) -> bool:
        """Whether an expression stands for other topics than before."""
        group = change.group
        wanted = group.subscriptions.regexes
        change.write(*(Regex(group.group_id, each, None) for each in group.regexes if each not in wanted))
        changed = False
        for expression in wanted:
            topics = self._topics.matching(expression)
            known = group.regexes.get(expression)
            if known is None or known.topics != topics:
                value = ResolvedRegex(topics, self._topics.generation, change.out.now_ms)
                change.write(Regex(group.group_id, expression, value))
                changed = True
        return changed

    def _assign(self, change: Change) -> None:
        """Make the target assignment of this group epoch, unless the last one is too fresh: a later request will."""
        group, now_ms = change.group, change.out.now_ms
        if group.epoch <= group.assignment_epoch:
            return
        interval_ms = self._config.assignment_interval_ms(group.group_id)
        if 0 <= now_ms - group.assignment_timestamp < interval_ms:
            return
        subscribers, counts = self._subscribers(group)
        target = ASSIGNORS[self.preferred_assignor(group)].assign(subscribers, counts)
        change.write(
            *(
                Target(group.group_id, member_id, assignment)
                for member_id, assignment in target.items()
                if assignment != group.target_of(member_id)
            ),
            TargetEpoch(group.group_id, (group.epoch, now_ms)),
        )

    def preferred_assignor(self, group: ConsumerGroup) -> str:
        """What most members wish for; the first one configured, if nobody has a wish."""
        wishes = group.subscriptions.assignors
        return max(self._config.assignors, key=lambda name: wishes.get(name, 0))

    def _subscribers(self, group: ConsumerGroup) -> tuple[dict[str, Subscriber], dict[bytes, int]]:
        counts: dict[bytes, int] = {}
        ids: dict[tuple[tuple[str, ...], str], frozenset[bytes]] = {}
        subscribers = {}
        for member_id, metadata in group.members.items():
            asked = (metadata.topics, metadata.regex)
            topic_ids = ids.get(asked)
            if topic_ids is None:
                topics = [
                    topic for name in group.topics_of(metadata) if (topic := self._topics.topic(name)) is not None
                ]
                counts.update((topic.topic_id, topic.partition_count) for topic in topics)
                topic_ids = ids[asked] = frozenset(topic.topic_id for topic in topics)
            subscribers[member_id] = Subscriber(metadata.instance_id, topic_ids, group.target_of(member_id))
        return subscribers, counts

    # -- one member ----------------------------------------------------------------------------------------------------
    def _reconcile(
        self,
        change: Change,
        member_id: str,
        owned: Assignment | None,
        subscription_changed: bool,
        *,
        joining: bool = False,
    ) -> bool:
        """The member's next step; whether it changes what the member is told to have."""
        group = change.group
        current = group.current_of(member_id)
        subscribed = None
        if subscription_changed:
            names = group.topics_of(group.members[member_id])
            subscribed = {topic.topic_id for name in names if (topic := self._topics.topic(name)) is not None}
        following = reconcile(
            current,
            group.assignment_epoch,
            group.target_of(member_id),
            group.is_free,
            owned,
            subscribed,
            joining=joining,
        )
        if following is current:
            return False
        change.write(Current(group.group_id, member_id, following))
        if following.state is MemberState.UNREVOKED_PARTITIONS:
            self._schedule_rebalance(change.group, member_id)
        else:
            self._timers.cancel(_rebalance_key(group.group_id, member_id))
        return following.assigned != current.assigned

    def _replace(self, change: Change, former_id: str, member_id: str) -> None:
        """The same instance under a new member id: the new one gets all that the former had; it joins, at epoch 0."""
        group_id, group = change.group_id, change.group
        target, current = group.target_of(former_id), group.current_of(former_id)
        metadata = group.members[former_id]
        if former_id != member_id:
            self._cancel_timers(group_id, former_id)
            change.write(
                Current(group_id, former_id, None),
                Target(group_id, former_id, None),
                Member(group_id, former_id, None),
                Member(group_id, member_id, metadata),
                Target(group_id, member_id, target),
            )
        change.write(Current(group_id, member_id, current._replace(epoch=0, previous_epoch=0)))

    def _remove(self, out: Outcome, group: ConsumerGroup, member_ids: Iterable[str]) -> None:
        """They leave, or are fenced: what they own is free. The next request makes an assignment for those that are
        left.

        If only members of the classic protocol are left, the group turns into a classic one, which rebalances."""
        group_id = group.group_id
        leaving = [*member_ids]
        for member_id in leaving:
            self._cancel_timers(group_id, member_id)
        if self._may_downgrade(group, leaving):
            for member_id in group.members:
                self._cancel_timers(group_id, member_id)
            out.write(downgrade_record(group, leaving, self._topics, out.now_ms))
            out.records += group.tombstones()
            self._timers.schedule(("downgraded", group_id), 0, group_id, partial(self._classic.resume, group_id))
            return
        change = Change(group, out)
        for member_id in leaving:
            change.write(
                Current(group_id, member_id, None), Target(group_id, member_id, None), Member(group_id, member_id, None)
            )
        self._resolve(change)
        digest = metadata_hash(self._topics, change.group.subscribed_topics())
        change.write(GroupEpoch(group_id, (change.group.epoch + 1, digest)))

    def _may_downgrade(self, group: ConsumerGroup, leaving: list[str]) -> bool:
        if group.subscriptions.classic_count < len(group.members) - len(leaving):
            return False
        left = [metadata for member_id, metadata in group.members.items() if member_id not in leaving]
        return (
            self._config.downgrade
            and 0 < len(left) <= self._classic_size_max
            and all(metadata.classic is not None for metadata in left)
        )

    # -- time-outs -----------------------------------------------------------------------------------------------------
    def _schedule_session(self, group: ConsumerGroup, member_id: str) -> None:
        group_id = group.group_id
        classic = group.members[member_id].classic
        timeout_ms = self._config.session_timeout_ms(group_id) if classic is None else classic.session_timeout_ms
        event = partial(self._session_over, group_id, member_id)
        self._timers.schedule(("session", group_id, member_id), timeout_ms, group_id, event)

    def _session_over(self, group_id: str, member_id: str, out: Outcome) -> None:
        group = self._table.consumer(group_id)
        if group is not None and member_id in group.members:
            self._remove(out, group, [member_id])

    def _schedule_rebalance(self, group: ConsumerGroup, member_id: str) -> None:
        """How long the member may take to give up partitions, or, with the classic protocol, to join again."""
        group_id = group.group_id
        event = partial(self._rebalance_over, group_id, member_id, group.current_of(member_id).epoch)
        timeout_ms = group.members[member_id].rebalance_timeout_ms
        self._timers.schedule(_rebalance_key(group_id, member_id), timeout_ms, group_id, event)

    def _rebalance_over(self, group_id: str, member_id: str, epoch: int, out: Outcome) -> None:
        group = self._table.consumer(group_id)
        if group is not None and member_id in group.members and group.current_of(member_id).epoch == epoch:
            self._remove(out, group, [member_id])

    def _cancel_timers(self, group_id: str, member_id: str) -> None:
        self._timers.cancel(("session", group_id, member_id))
        self._timers.cancel(_rebalance_key(group_id, member_id))
        self._timers.cancel(("member-sync", group_id, member_id))


def _rebalance_key(group_id: str, member_id: str) -> tuple[str, ...]:
    return ("rebalance", group_id, member_id)
