"""Alembic's migrations of the catalog. Nothing of this is imported while the schema is up to date.

To change the schema: change `s3stream.catalog.schema` (tables and `SCHEMA_VERSION`) and add the next four-digit
revision under `versions/`. A migration that was released is never changed.
"""
