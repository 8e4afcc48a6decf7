"""The catalog: metadata in SQL (SQLite embedded, PostgreSQL shared). The interface is `s3stream.catalog.api`."""
