"""Streams on object storage: append, fetch, trim; objects, caches, catalog, recovery. Batches are opaque bytes here."""
