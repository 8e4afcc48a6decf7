"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _row_id() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "brokers",
        sa.Column("node_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("incarnation", sa.Uuid, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("rack", sa.Text),
        sa.Column("wal_url", sa.Text, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("lease_end_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "topics",
        sa.Column("topic_id", sa.Uuid, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("internal", sa.Boolean, nullable=False),
        sa.Column("replication_factor", sa.SmallInteger, nullable=False),
    )
    op.create_index("topics_name", "topics", ["name"], unique=True)
    op.create_table(
        "partitions",
        sa.Column("topic_id", sa.Uuid, primary_key=True),
        sa.Column("partition_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("leader", sa.Integer, nullable=False),
        sa.Column("leader_epoch", sa.Integer, nullable=False),
        sa.Column("log_stream_id", sa.BigInteger, nullable=False),
        sa.Column("state_stream_id", sa.BigInteger, nullable=False),
    )
    op.create_index("partitions_leader", "partitions", ["leader"])
    op.create_table(
        "configs",
        sa.Column("resource_type", sa.Text, primary_key=True),
        sa.Column("resource_name", sa.Text, primary_key=True),
        sa.Column("config_key", sa.Text, primary_key=True),
        sa.Column("config_value", sa.Text, nullable=False),
    )
    op.create_table(
        "streams",
        sa.Column("stream_id", _row_id(), primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("node_id", sa.Integer),
        sa.Column("broker_epoch", sa.BigInteger),
        sa.Column("start_offset", sa.BigInteger, nullable=False),
        sa.Column("end_offset", sa.BigInteger, nullable=False),
    )
    op.create_index("streams_broker_epoch", "streams", ["broker_epoch"])
    op.create_table(
        "objects",
        sa.Column("object_id", _row_id(), primary_key=True, autoincrement=False),
        sa.Column("object_key", sa.Text, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("node_id", sa.Integer, nullable=False),
        sa.Column("broker_epoch", sa.BigInteger, nullable=False),
        sa.Column("was_committed", sa.Boolean, nullable=False),
        sa.Column("since_ms", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger),
        sa.Column("ranges", sa.LargeBinary),
        sa.Column("witness_stream_id", sa.BigInteger),
        sa.Column("witness_end_offset", sa.BigInteger),
    )
    op.create_index("objects_state", "objects", ["state", "object_id"])
    op.create_index("objects_witness", "objects", ["witness_stream_id", "witness_end_offset"])
    op.create_table(
        "changes",
        sa.Column("kind", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("entity", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )
    op.create_index("changes_seq", "changes", ["seq"])
    op.bulk_insert(
        counters,
        [
            {"name": "stream_id", "value": 0},
            {"name": "object_id", "value": 0},
            {"name": "producer_id", "value": -1},
            {"name": "broker_epoch", "value": 0},
            {"name": "change_seq", "value": 0},
        ],
    )
