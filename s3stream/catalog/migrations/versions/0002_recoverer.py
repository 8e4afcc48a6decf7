"""Who recovers a fenced broker's write-ahead log."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("brokers", sa.Column("recoverer_epoch", sa.BigInteger))
