"""Objects of one stream are found by it; how often an object was rewritten; up to where logs were compacted."""

import sqlalchemy as sa
from alembic import op

from s3stream.catalog.ranges import decode_ranges

revision = "0004"
down_revision = "0003"

COMMITTED = 1


def upgrade() -> None:
    op.add_column("streams", sa.Column("compacted_offset", sa.BigInteger))
    for column in ("stream_id", "first_stream_id", "last_stream_id"):
        op.add_column("objects", sa.Column(column, sa.BigInteger))
    op.add_column("objects", sa.Column("generation", sa.SmallInteger))
    op.create_index("objects_stream", "objects", ["stream_id", "object_id"])
    objects = sa.table(
        "objects",
        *(sa.column(name) for name in ("object_id", "state", "ranges", "stream_id", "first_stream_id")),
        *(sa.column(name) for name in ("last_stream_id", "generation")),
    )
    tx = op.get_bind()
    held = tx.execute(sa.select(objects.c.object_id, objects.c.ranges).where(objects.c.state == COMMITTED)).all()
    for object_id, value in held:
        stream_ids = [each.stream_id for each in decode_ranges(value)]
        first, last = min(stream_ids), max(stream_ids)
        tx.execute(
            objects.update()
            .where(objects.c.object_id == object_id)
            .values(
                stream_id=first if first == last else None, first_stream_id=first, last_stream_id=last, generation=0
            )
        )
