"""A broker that is about to stop, and is given nothing any more."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("brokers", sa.Column("leaving", sa.Boolean))
