"""The catalog: cluster metadata in a SQL database, one schema on SQLite and PostgreSQL.

`api` is what the rest of the product sees; it imports nothing heavy. `open_catalog` is the only way in.

::

    api.py        the seam: values, errors, the Catalog protocol
    opening.py    URL -> database -> schema (created, migrated or refused) -> SqlCatalog
    catalog.py    SqlCatalog: each method is one transaction, retried where that is safe
    brokers.py  topics.py  changes.py  streams.py  objects.py  listing.py  replacing.py
                  the transactions themselves: plain functions over a SQLAlchemy connection
    locks.py      counters, the change lock, who waits for whom
    schema.py     tables, schema version, the database's clock
    ranges.py     the binary value that holds an object's ranges
    database.py  sqlite.py  postgres.py
                  how a transaction is run, retried and its errors named on either database
    migrations/   Alembic; imported only when an older schema is found
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s3stream.catalog.api import Catalog


async def open_catalog(url: str, *, create: bool = True) -> Catalog:
    """Open the catalog at `sqlite:///path`, `sqlite://` (in memory) or `postgresql://user:password@host:port/database`.

    A fresh database becomes a catalog if `create`; an older schema is migrated. Raises CatalogUnreachable,
    CatalogTooNew, CatalogError, each with one line that holds no password.
    """
    from s3stream.catalog.opening import open_sql_catalog  # SQLAlchemy costs 0.1 s to import

    return await open_sql_catalog(url, create=create)
