"""Where a broker's write-ahead log is: a directory, or an object store.

`file:///dir` is the local disk; `s3://`, `gs://` and `az://` (as for `--objects`) make a log of objects, and so does
`object+file:///dir` in a directory. The difference that takeover has to know: a directory is read along with its owner,
so that looking is harmless; a log of objects is taken away by looking, whether the owner lives or not.
"""

from __future__ import annotations

from s3stream.objectstore.api import StoreAddressInvalid, StoreError
from s3stream.objectstore.opening import open_store
from s3stream.objectstore.slots import StoreSlots
from wal import open_wal, read_wal
from wal.api import RecoverableWal, Wal, WalError, WalOfAnotherEpoch, WalUnreachable
from wal.object import fence_object_wal, open_object_wal

_OBJECT_PREFIX = "object+"
_STORE_SCHEMES = ("s3://", "gs://", "az://")


def is_sealed_by_looking(url: str) -> bool:
    """`fence_log` takes the log from an owner that may be alive."""
    return _store_url(url) is not None


async def open_log(url: str, epoch: int, owner: str) -> Wal:
    """As `wal.open_wal`, on either kind."""
    store_url = _store_url(url)
    if store_url is None:
        return await open_wal(url, epoch=epoch, owner=owner)
    return await open_object_wal(await _open_slots(store_url), epoch, owner)


async def fence_log(url: str, owner: str, epoch: int) -> RecoverableWal:
    """Another broker's log, last appended to under `epoch`; one of objects is sealed. Whether its owner is out for good
    is said by `owner_is_out`.

    Raises WalOfAnotherEpoch, and then nothing was done to the log: between a look into the catalog and this call the
    broker that is meant may have been replaced by a new one at the same address. Else as `wal.read_wal`.
    """
    store_url = _store_url(url)
    if store_url is not None:
        return await fence_object_wal(await _open_slots(store_url), owner, epoch)
    wal = await read_wal(url, owner=owner)
    if wal.epoch == epoch:
        return wal
    await wal.close()
    raise WalOfAnotherEpoch(wal.epoch, epoch)


async def _open_slots(store_url: str) -> StoreSlots:
    try:
        return StoreSlots(await open_store(store_url))
    except StoreAddressInvalid as error:
        raise WalError(str(error)) from error
    except StoreError as error:
        raise WalUnreachable(f"the write-ahead log cannot be used: {error}") from error


def _store_url(url: str) -> str | None:
    if url.startswith(_OBJECT_PREFIX):
        return url.removeprefix(_OBJECT_PREFIX)
    return url if url.startswith(_STORE_SCHEMES) else None
