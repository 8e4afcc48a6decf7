"""The WAL on a local disk. The format is in `wal.file.format`."""
