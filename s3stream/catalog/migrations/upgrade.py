"""Lead an older schema to the present one, inside the caller's transaction."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

DIRECTORY = Path(__file__).parent


def upgrade(tx: Connection, revision: str = "head") -> None:
    command.upgrade(config(tx), revision)


def config(tx: Connection | None = None) -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(DIRECTORY).replace("%", "%%"))
    configuration.set_main_option("path_separator", "os")
    configuration.attributes["connection"] = tx
    return configuration
