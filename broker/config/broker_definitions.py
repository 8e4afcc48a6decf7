"""The broker configs this broker knows by Kafka's names: type, default, validity, how they may be changed, effect.

Configs of Kafka's own machinery (KRaft, ISR, purgatories, Java security providers) are not listed. What is listed as
accepted stands here because a topic config defaults to it or because tools and operators set it everywhere.
"""

from __future__ import annotations

from broker.config.definition import (
    INT_MAX,
    LONG_MAX,
    ConfigDef,
    ConfigType,
    Effect,
    Update,
    Validator,
    at_least,
    between,
    by_name,
    gzip_level,
    list_of,
    one_of,
)
from broker.config.topic_definitions import COMPRESSION_TYPES, DURABILITIES, TIMESTAMP_TYPES

_BOOLEAN, _STRING, _INT, _SHORT, _LONG, _DOUBLE, _LIST = (
    ConfigType.BOOLEAN,
    ConfigType.STRING,
    ConfigType.INT,
    ConfigType.SHORT,
    ConfigType.LONG,
    ConfigType.DOUBLE,
    ConfigType.LIST,
)
_READ_ONLY, _PER_BROKER, _CLUSTER = Update.READ_ONLY, Update.PER_BROKER, Update.CLUSTER_WIDE

_Row = tuple[str, ConfigType, object, Validator | None, Update, str]


def _table(effect: Effect, *rows: _Row) -> tuple[ConfigDef, ...]:
    return tuple(
        ConfigDef(name, kind, None if default is None else str(default), check, effect, doc, update=update)
        for name, kind, default, check, update, doc in rows
    )


_IDENTITY = _table(
    Effect.HONOURED,
    ("node.id", _INT, None, at_least(0), _READ_ONLY, "This broker's id."),
    ("broker.id", _INT, -1, None, _READ_ONLY, "The former name of node.id."),
    ("broker.rack", _STRING, None, None, _READ_ONLY, "The rack (availability zone) this broker is in."),
    ("listeners", _LIST, "PLAINTEXT://:9092", None, _READ_ONLY, "Addresses this broker listens on."),
    ("advertised.listeners", _LIST, None, None, _READ_ONLY, "Addresses that clients are told to connect to."),
    ("log.dirs", _LIST, None, None, _READ_ONLY, "Where this broker keeps its write-ahead log."),
)

_TOPICS = _table(
    Effect.HONOURED,
    ("num.partitions", _INT, 1, at_least(1), _READ_ONLY, "Partitions of a topic that is created without a count."),
    ("default.replication.factor", _INT, 1, at_least(1), _READ_ONLY, "Recorded when a topic is created without one."),
    (
        "auto.create.topics.enable",
        _BOOLEAN,
        "true",
        None,
        _READ_ONLY,
        "Create a topic when a client asks for it.",
    ),
    ("delete.topic.enable", _BOOLEAN, "true", None, _READ_ONLY, "Allow topics to be deleted."),
)

_LOG = _table(
    Effect.HONOURED,
    ("log.cleanup.policy", _LIST, "delete", list_of("compact", "delete"), _CLUSTER, "Default of cleanup.policy."),
    ("log.retention.ms", _LONG, None, None, _CLUSTER, "Default of retention.ms; goes before minutes and hours."),
    ("log.retention.minutes", _INT, None, None, _READ_ONLY, "Default retention in minutes; goes before hours."),
    ("log.retention.hours", _INT, 168, None, _READ_ONLY, "Default retention in hours."),
    ("log.retention.bytes", _LONG, -1, None, _CLUSTER, "Default of retention.bytes."),
    ("log.retention.check.interval.ms", _LONG, 300000, at_least(1), _READ_ONLY, "Time between two retention checks."),
    ("message.max.bytes", _INT, 1048588, at_least(0), _CLUSTER, "Default of max.message.bytes."),
    (
        "log.message.timestamp.type",
        _STRING,
        "CreateTime",
        one_of(*TIMESTAMP_TYPES),
        _CLUSTER,
        "Default of message.timestamp.type.",
    ),
    (
        "log.message.timestamp.before.max.ms",
        _LONG,
        LONG_MAX,
        at_least(0),
        _CLUSTER,
        "Default of message.timestamp.before.max.ms.",
    ),
    (
        "log.message.timestamp.after.max.ms",
        _LONG,
        3600000,
        at_least(0),
        _CLUSTER,
        "Default of message.timestamp.after.max.ms.",
    ),
    (
        "producer.id.expiration.ms",
        _INT,
        86400000,
        at_least(1),
        _CLUSTER,
        "How long an idle idempotent producer's state is remembered.",
    ),
)

_NETWORK = _table(
    Effect.HONOURED,
    (
        "socket.request.max.bytes",
        _INT,
        104857600,
        at_least(1),
        _READ_ONLY,
        "The largest request that is read.",
    ),
    ("fetch.max.bytes", _INT, 57671680, at_least(1024), _READ_ONLY, "The most bytes in one fetch response."),
    ("max.connections", _INT, INT_MAX, at_least(0), _CLUSTER, "Connections this broker accepts."),
    ("max.connections.per.ip", _INT, INT_MAX, at_least(0), _CLUSTER, "Connections accepted from one address."),
    ("connections.max.idle.ms", _LONG, 600000, None, _READ_ONLY, "An idle connection is closed after this time."),
    ("queued.max.requests", _INT, 500, at_least(1), _READ_ONLY, "Unanswered requests before a connection is not read."),
    ("queued.max.request.bytes", _LONG, -1, None, _READ_ONLY, "Bytes of unanswered requests; -1 means 96 MiB."),
    (
        "max.incremental.fetch.session.cache.slots",
        _INT,
        1000,
        at_least(0),
        _READ_ONLY,
        "Incremental fetch sessions that are kept.",
    ),
    ("max.request.partition.size.limit", _INT, 2000, at_least(1), _READ_ONLY, "Partitions in one paged description."),
)

_GROUPS = _table(
    Effect.HONOURED,
    ("group.min.session.timeout.ms", _INT, 6000, None, _READ_ONLY, "The shortest session timeout of a member."),
    ("group.max.session.timeout.ms", _INT, 1800000, None, _READ_ONLY, "The longest session timeout of a member."),
    ("group.initial.rebalance.delay.ms", _INT, 3000, None, _READ_ONLY, "How long a new group waits for more members."),
    ("group.max.size", _INT, INT_MAX, at_least(1), _READ_ONLY, "The most members of a group."),
    ("offset.metadata.max.bytes", _INT, 4096, None, _READ_ONLY, "The longest metadata of a committed offset."),
    ("offsets.retention.minutes", _INT, 10080, at_least(1), _READ_ONLY, "How long an empty group's offsets are kept."),
    (
        "offsets.retention.check.interval.ms",
        _LONG,
        600000,
        at_least(1),
        _READ_ONLY,
        "Time between two checks for expired offsets.",
    ),
    ("offsets.topic.num.partitions", _INT, 50, at_least(1), _READ_ONLY, "Partitions of __consumer_offsets."),
    ("offsets.topic.replication.factor", _SHORT, 3, at_least(1), _READ_ONLY, "Recorded for __consumer_offsets."),
    ("offsets.topic.segment.bytes", _INT, 104857600, at_least(1), _READ_ONLY, "segment.bytes of __consumer_offsets."),
)

_TRANSACTIONS = _table(
    Effect.HONOURED,
    ("transaction.state.log.num.partitions", _INT, 50, at_least(1), _READ_ONLY, "Partitions of __transaction_state."),
    (
        "transaction.state.log.replication.factor",
        _SHORT,
        3,
        at_least(1),
        _READ_ONLY,
        "Recorded for __transaction_state.",
    ),
    ("transaction.state.log.min.isr", _INT, 2, at_least(1), _READ_ONLY, "min.insync.replicas of __transaction_state."),
    (
        "transaction.state.log.segment.bytes",
        _INT,
        104857600,
        at_least(1),
        _READ_ONLY,
        "segment.bytes of __transaction_state.",
    ),
    ("transaction.max.timeout.ms", _INT, 900000, at_least(1), _READ_ONLY, "The longest transaction timeout."),
    (
        "transactional.id.expiration.ms",
        _INT,
        604800000,
        at_least(1),
        _READ_ONLY,
        "How long an idle transactional id is remembered.",
    ),
    (
        "transaction.abort.timed.out.transaction.cleanup.interval.ms",
        _INT,
        10000,
        at_least(1),
        _READ_ONLY,
        "Time between two searches for transactions that are over their timeout.",
    ),
    (
        "transaction.remove.expired.transaction.cleanup.interval.ms",
        _INT,
        3600000,
        at_least(1),
        _READ_ONLY,
        "Time between two searches for expired transactional ids.",
    ),
    (
        "transaction.partition.verification.enable",
        _BOOLEAN,
        "true",
        None,
        _CLUSTER,
        "Whether the coordinator is asked before a partition takes part in a transaction (KIP-890).",
    ),
    (
        "add.partitions.to.txn.retry.backoff.ms",
        _INT,
        20,
        at_least(1),
        _READ_ONLY,
        "The longest wait between two attempts to add partitions while the transaction before is being completed.",
    ),
    (
        "add.partitions.to.txn.retry.backoff.max.ms",
        _INT,
        100,
        at_least(0),
        _READ_ONLY,
        "How long adding partitions is attempted.",
    ),
)

_BALANCE = _table(
    Effect.HONOURED,
    (
        "auto.leader.rebalance.enable",
        _BOOLEAN,
        "true",
        None,
        _CLUSTER,
        "Move partitions by themselves, so that brokers lead and carry about the same. Draining works without it.",
    ),
    (
        "tailrace.balance.partitions.percentage",
        _INT,
        10,
        at_least(1),
        _CLUSTER,
        "How far the number of partitions that a broker leads may be from the average, if by more than one.",
    ),
    (
        "leader.imbalance.check.interval.seconds",
        _LONG,
        300,
        None,
        _READ_ONLY,
        "How long a partition that was moved is not moved again for the sake of load.",
    ),
    (
        "tailrace.balance.load.percentage",
        _INT,
        25,
        at_least(5),
        _CLUSTER,
        "How far a broker's bytes in, bytes out, requests or CPU may be above the average before partitions move.",
    ),
    (
        "tailrace.balance.moves.max",
        _INT,
        50,
        at_least(1),
        _CLUSTER,
        "Partitions that the balancer, or a drain, has on the move at a time.",
    ),
    (
        "tailrace.draining",
        _BOOLEAN,
        "false",
        None,
        _PER_BROKER,
        "This broker gives away all that it leads, and is given nothing. Set dynamically: `tailrace brokers drain`.",
    ),
)

RACK_AWARE_SELECTOR = "org.apache.kafka.common.replica.RackAwareReplicaSelector"
LEADER_SELECTOR = "org.apache.kafka.common.replica.LeaderSelector"

_RACKS = _table(
    Effect.HONOURED,
    (
        "replica.selector.class",
        _STRING,
        RACK_AWARE_SELECTOR,
        one_of(RACK_AWARE_SELECTOR, LEADER_SELECTOR),
        _READ_ONLY,
        "Where consumers with a client.rack read old records: from a replica in their rack, or from the leader. "
        "Has to be the same at all brokers. Kafka's default is the leader.",
    ),
)

_DURABILITY = _table(
    Effect.HONOURED,
    ("tailrace.durability", _STRING, "wal", one_of(*DURABILITIES), _CLUSTER, "Default of tailrace.durability."),
    (
        "tailrace.internal.topics.durability",
        _STRING,
        None,
        one_of(*DURABILITIES),
        _READ_ONLY,
        "tailrace.durability of __consumer_offsets and __transaction_state when they are created; "
        "without it they have the default.",
    ),
)

_COMPACTION = _table(
    Effect.HONOURED,
    ("log.cleaner.delete.retention.ms", _LONG, 86400000, at_least(0), _CLUSTER, "Default of delete.retention.ms."),
    ("log.cleaner.max.compaction.lag.ms", _LONG, LONG_MAX, at_least(1), _CLUSTER, "Default of max.compaction.lag.ms."),
    ("log.cleaner.min.compaction.lag.ms", _LONG, 0, at_least(0), _CLUSTER, "Default of min.compaction.lag.ms."),
    ("log.cleaner.min.cleanable.ratio", _DOUBLE, 0.5, between(0, 1), _CLUSTER, "Default of min.cleanable.dirty.ratio."),
    ("log.roll.hours", _INT, 168, at_least(1), _READ_ONLY, "Default of segment.ms, in hours."),
    ("log.roll.ms", _LONG, None, at_least(1), _CLUSTER, "Default of segment.ms; goes before hours."),
    ("log.segment.bytes", _INT, 1073741824, at_least(1048576), _CLUSTER, "Default of segment.bytes."),
    (
        "log.cleaner.enable",
        _BOOLEAN,
        "true",
        None,
        _READ_ONLY,
        "Compact topics with cleanup.policy=compact, the coordinators' own among them.",
    ),
    (
        "log.cleaner.backoff.ms",
        _LONG,
        15000,
        at_least(0),
        _CLUSTER,
        "Time between two looks for a log to compact.",
    ),
    (
        "log.cleaner.dedupe.buffer.size",
        _LONG,
        134217728,
        None,
        _CLUSTER,
        "Memory for the keys of one pass, some 200 bytes each. A log with more dirty keys takes several passes.",
    ),
)

_WITHOUT_EFFECT = _table(
    Effect.ACCEPTED,
    ("request.timeout.ms", _INT, 30000, None, _READ_ONLY, "How long brokers wait for each other."),
    ("offsets.commit.timeout.ms", _INT, 5000, at_least(1), _READ_ONLY, "How long a commit may wait to be durable."),
    (
        "offsets.topic.compression.codec",
        _INT,
        0,
        None,
        _READ_ONLY,
        "Codec of the records in __consumer_offsets: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.",
    ),
    ("background.threads", _INT, 10, at_least(1), _CLUSTER, "Kafka's background threads."),
    ("num.io.threads", _INT, 8, at_least(1), _CLUSTER, "Kafka's request threads."),
    ("num.network.threads", _INT, 3, at_least(1), _CLUSTER, "Kafka's network threads."),
    ("num.recovery.threads.per.data.dir", _INT, 2, at_least(1), _CLUSTER, "Kafka's log recovery threads."),
    ("num.replica.fetchers", _INT, 1, None, _CLUSTER, "Kafka's replication threads."),
    ("min.insync.replicas", _INT, 1, at_least(1), _CLUSTER, "Default of min.insync.replicas."),
    ("unclean.leader.election.enable", _BOOLEAN, "false", None, _CLUSTER, "Default of the topic config of this name."),
    ("compression.type", _STRING, "producer", one_of(*COMPRESSION_TYPES), _CLUSTER, "Default of compression.type."),
    ("compression.gzip.level", _INT, -1, gzip_level, _CLUSTER, "Default of compression.gzip.level."),
    ("compression.lz4.level", _INT, 9, between(1, 17), _CLUSTER, "Default of compression.lz4.level."),
    ("compression.zstd.level", _INT, 3, between(-131072, 22), _CLUSTER, "Default of compression.zstd.level."),
    ("log.cleaner.threads", _INT, 1, at_least(0), _CLUSTER, "Kafka's cleaner threads. One log is compacted at a time."),
    ("log.cleaner.io.buffer.size", _INT, 524288, at_least(0), _CLUSTER, "Kafka's buffers of the log cleaner."),
    ("log.cleaner.io.buffer.load.factor", _DOUBLE, 0.9, None, _CLUSTER, "How full Kafka's map of keys may become."),
    (
        "log.cleaner.io.max.bytes.per.second",
        _DOUBLE,
        "1.7976931348623157E308",
        None,
        _CLUSTER,
        "Kafka's bound on the log cleaner's reads and writes. The setting compaction_rate of the storage is ours.",
    ),
    ("log.flush.interval.messages", _LONG, LONG_MAX, at_least(1), _CLUSTER, "Default of flush.messages."),
    ("log.flush.interval.ms", _LONG, None, None, _CLUSTER, "Default of flush.ms."),
    ("log.index.interval.bytes", _INT, 4096, at_least(0), _CLUSTER, "Default of index.interval.bytes."),
    ("log.index.size.max.bytes", _INT, 10485760, at_least(4), _CLUSTER, "Default of segment.index.bytes."),
    ("log.local.retention.bytes", _LONG, -2, at_least(-2), _CLUSTER, "Default of local.retention.bytes."),
    ("log.local.retention.ms", _LONG, -2, at_least(-2), _CLUSTER, "Default of local.retention.ms."),
    ("log.preallocate", _BOOLEAN, "false", None, _CLUSTER, "Default of preallocate."),
    ("log.roll.jitter.hours", _INT, 0, at_least(0), _READ_ONLY, "Default of segment.jitter.ms, in hours."),
    ("log.roll.jitter.ms", _LONG, None, None, _CLUSTER, "Default of segment.jitter.ms; goes before hours."),
    ("log.segment.delete.delay.ms", _LONG, 60000, at_least(0), _CLUSTER, "Default of file.delete.delay.ms."),
)

_CONSUMER_GROUPS = _table(
    Effect.HONOURED,
    (
        "group.consumer.session.timeout.ms",
        _INT,
        45000,
        at_least(1),
        _READ_ONLY,
        "Default of consumer.session.timeout.ms of a group.",
    ),
    (
        "group.consumer.min.session.timeout.ms",
        _INT,
        45000,
        at_least(1),
        _READ_ONLY,
        "The least that consumer.session.timeout.ms of a group counts as.",
    ),
    (
        "group.consumer.max.session.timeout.ms",
        _INT,
        60000,
        at_least(1),
        _READ_ONLY,
        "The most that consumer.session.timeout.ms of a group counts as.",
    ),
    (
        "group.consumer.heartbeat.interval.ms",
        _INT,
        5000,
        at_least(1),
        _READ_ONLY,
        "Default of consumer.heartbeat.interval.ms of a group.",
    ),
    (
        "group.consumer.min.heartbeat.interval.ms",
        _INT,
        5000,
        at_least(1),
        _READ_ONLY,
        "The least that consumer.heartbeat.interval.ms of a group counts as.",
    ),
    (
        "group.consumer.max.heartbeat.interval.ms",
        _INT,
        15000,
        at_least(1),
        _READ_ONLY,
        "The most that consumer.heartbeat.interval.ms of a group counts as.",
    ),
    (
        "group.consumer.assignment.interval.ms",
        _INT,
        1000,
        at_least(0),
        _CLUSTER,
        "Default of consumer.assignment.interval.ms of a group.",
    ),
    (
        "group.consumer.min.assignment.interval.ms",
        _INT,
        0,
        at_least(0),
        _READ_ONLY,
        "The least that consumer.assignment.interval.ms of a group counts as.",
    ),
    (
        "group.consumer.max.assignment.interval.ms",
        _INT,
        15000,
        at_least(0),
        _READ_ONLY,
        "The most that consumer.assignment.interval.ms of a group counts as.",
    ),
    ("group.consumer.max.size", _INT, INT_MAX, at_least(1), _READ_ONLY, "The most members of a consumer group."),
    (
        "group.consumer.assignors",
        _LIST,
        "uniform,range",
        list_of("range", "uniform"),
        _READ_ONLY,
        "Assignors that members may ask for; the first is the default.",
    ),
    (
        "group.consumer.migration.policy",
        _STRING,
        "bidirectional",
        one_of(
            "disabled", "DISABLED", "upgrade", "UPGRADE", "downgrade", "DOWNGRADE", "bidirectional", "BIDIRECTIONAL"
        ),
        _READ_ONLY,
        "Which way groups turn between the classic and the new protocol.",
    ),
)

_GROUP_TYPES = _table(
    Effect.ACCEPTED,
    (
        "group.share.session.timeout.ms",
        _INT,
        45000,
        at_least(1),
        _READ_ONLY,
        "Default of share.session.timeout.ms of a group.",
    ),
    (
        "group.share.heartbeat.interval.ms",
        _INT,
        5000,
        at_least(1),
        _READ_ONLY,
        "Default of share.heartbeat.interval.ms of a group.",
    ),
    (
        "group.share.assignment.interval.ms",
        _INT,
        1000,
        at_least(0),
        _CLUSTER,
        "Default of share.assignment.interval.ms of a group.",
    ),
    (
        "group.share.record.lock.duration.ms",
        _INT,
        30000,
        at_least(1000),
        _READ_ONLY,
        "Default of share.record.lock.duration.ms of a group.",
    ),
    (
        "group.share.delivery.count.limit",
        _INT,
        5,
        at_least(2),
        _READ_ONLY,
        "Default of share.delivery.count.limit of a group.",
    ),
    (
        "group.share.partition.max.record.locks",
        _INT,
        2000,
        at_least(100),
        _READ_ONLY,
        "Default of share.partition.max.record.locks of a group.",
    ),
    (
        "group.streams.session.timeout.ms",
        _INT,
        45000,
        at_least(1),
        _READ_ONLY,
        "Default of streams.session.timeout.ms of a group.",
    ),
    (
        "group.streams.heartbeat.interval.ms",
        _INT,
        5000,
        at_least(1),
        _READ_ONLY,
        "Default of streams.heartbeat.interval.ms of a group.",
    ),
    (
        "group.streams.assignment.interval.ms",
        _INT,
        1000,
        at_least(0),
        _CLUSTER,
        "Default of streams.assignment.interval.ms of a group.",
    ),
    (
        "group.streams.initial.rebalance.delay.ms",
        _INT,
        3000,
        at_least(0),
        _READ_ONLY,
        "Default of streams.initial.rebalance.delay.ms of a group.",
    ),
    (
        "group.streams.num.standby.replicas",
        _INT,
        0,
        at_least(0),
        _READ_ONLY,
        "Default of streams.num.standby.replicas of a group.",
    ),
)

BROKER_CONFIGS: dict[str, ConfigDef] = by_name(
    _IDENTITY
    + _TOPICS
    + _LOG
    + _NETWORK
    + _GROUPS
    + _TRANSACTIONS
    + _BALANCE
    + _DURABILITY
    + _RACKS
    + _COMPACTION
    + _WITHOUT_EFFECT
    + _CONSUMER_GROUPS
    + _GROUP_TYPES
)

SYNONYMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("log.retention.ms", "log.retention.minutes", "log.retention.hours"),
        ("log.retention.ms", "log.retention.minutes", "log.retention.hours"),
    ),
    **dict.fromkeys(("log.roll.ms", "log.roll.hours"), ("log.roll.ms", "log.roll.hours")),
    **dict.fromkeys(("log.roll.jitter.ms", "log.roll.jitter.hours"), ("log.roll.jitter.ms", "log.roll.jitter.hours")),
}
"""Broker configs that say the same in different units, strongest first."""
