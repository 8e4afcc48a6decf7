"""The day the database is gone: its metadata lies in the bucket too, and the objects say the rest.

::

    backup.py      `MetadataBackup`: a broker writes snapshots of the catalog's small tables into the bucket
    snapshots.py   where these lie, whose the bucket is
    selection.py   which objects, and what of them, make the streams (pure)
    rebuilding.py  a new catalog from a snapshot, the objects' indexes and the write-ahead logs

What is exact and what is not: see `rebuilding`, and docs/backup.md for users.
"""
