"""Whom leadership of a partition is handed to, and the replicas that were assigned to it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("partitions", sa.Column("target", sa.Integer))
    op.add_column("partitions", sa.Column("replicas", sa.Text))
    op.add_column("partitions", sa.Column("former_replicas", sa.Text))
