"""What object storage costs: requests counted in a directory, and a table of prices.

Prices in US dollars are those of Amazon S3 Standard in us-east-1 as of 2026; edit them for another store.
"""

from __future__ import annotations

from pathlib import Path

PUT_PRICE = 0.005 / 1000
"""One PUT."""
GET_PRICE = 0.0004 / 1000
"""One GET."""
STORED_PRICE = 0.023
"""A GB for a month."""


def count_objects(directory: Path) -> int:
    """Files in the directory of a `file://` store: each came by one PUT."""
    return sum(1 for path in directory.rglob("*") if path.is_file())
