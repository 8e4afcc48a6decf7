"""The broker's directory, and the small file in it that says whose it is.

`meta.json` holds `{"format": 1, "cluster": CLUSTER_ID, "node": NODE_ID}`. It is written, synced, before anything of
that cluster is; afterwards it never changes. It keeps a directory from being used by another node or cluster, whose
write-ahead log would be taken for its own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

META_FILE = "meta.json"
FORMAT = 1


class DataDirError(Exception):
    """One line: why this directory cannot be used, and what to do."""


def prepare_data_dir(path: Path) -> None:
    """Make the directory if need be. Raises DataDirError."""
    try:
        _make(path.absolute())
    except OSError as error:
        raise DataDirError(f"cannot make the data dir {path}: {error.strerror}") from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise DataDirError(f"the data dir {path} cannot be written")


def check_data_dir(path: Path, node_id: int) -> None:
    """Before the cluster is known: refuse a newer format and another node's directory. Raises DataDirError."""
    meta = _read_meta(path)
    if meta is not None and meta["node"] != node_id:
        raise DataDirError(
            f"the data dir {path} belongs to node {meta['node']}, not to node {node_id}: "
            "use that node id or another directory"
        )


def claim_data_dir(path: Path, cluster_id: str, node_id: int) -> None:
    """Write the file, or compare the cluster it names. Raises DataDirError."""
    meta = _read_meta(path)
    if meta is None:
        _write_meta(path, {"format": FORMAT, "cluster": cluster_id, "node": node_id})
    elif meta["cluster"] != cluster_id:
        raise DataDirError(
            f"the data dir {path} belongs to cluster {meta['cluster']}, the metadata is of cluster {cluster_id}: "
            "use the metadata URL of that cluster or another directory"
        )


def _read_meta(path: Path) -> dict[str, object] | None:
    file = path / META_FILE
    try:
        meta = json.loads(file.read_text())
        found = meta["format"]
        if not isinstance(found, int) or found < 1:
            raise ValueError
        if found > FORMAT:
            raise DataDirError(
                f"the data dir {path} has format {found}, this tailrace knows {FORMAT}: use a newer tailrace"
            )
        return {"format": found, "cluster": str(meta["cluster"]), "node": int(meta["node"])}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataDirError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise DataDirError(f"{file} is not a file of tailrace: remove it if this directory is to be used") from None


def _write_meta(path: Path, meta: dict[str, object]) -> None:
    temporary = path / f"{META_FILE}.new"
    try:
        with temporary.open("w") as file:
            json.dump(meta, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path / META_FILE)
        _sync(path)
    except OSError as error:
        raise DataDirError(f"cannot write {path / META_FILE}: {error.strerror}") from None


def _make(path: Path) -> None:
    """With its parents; durable, because a write-ahead log is only as durable as the directories above it."""
    if path.is_dir():
        return
    _make(path.parent)
    path.mkdir(exist_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
