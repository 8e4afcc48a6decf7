"""Stores behind `obstore`: S3 and its likes, Google Cloud Storage, Azure.

Bodies are not signed over (TLS protects them in flight, the object format's CRCs at rest): signing costs ten times more
CPU than all the rest of a PUT. Retries and time-outs are not left to the library: a repeated conditional PUT has to be
decided by looking (`retrying`), and how long a call may take depends on its size (`patience`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, S3Store

from s3stream.objectstore.api import (
    ObjectExists,
    ObjectMeta,
    ObjectMissing,
    RangeInvalid,
    StoreError,
    StoreRefused,
    StoreUnreachable,
)
from s3stream.objectstore.patience import Patience
from s3stream.objectstore.pieces import joined_runs
from wal.api import Buffer

_DELETE_CHUNK = 1000
_LIST_CHUNK = 1000
COPIED_MAX = 512 << 10
"""Answers up to this size are copied; no connection reads more than that at once."""
CLIENT_OPTIONS: dict[str, Any] = {
    "timeout": timedelta(days=1),  # the library's own, of a whole request; ours are shorter
    "connect_timeout": timedelta(seconds=5),
    "allow_http": True,
}
NO_RETRIES: dict[str, Any] = {"max_retries": 0, "retry_timeout": timedelta(seconds=60)}
_REFUSALS = (
    "NoSuchBucket",
    "NoSuchContainer",
    "ContainerNotFound",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
)


class RemoteStore:
    """`name` is what messages call the store."""

    def __init__(self, name: str, store: S3Store | GCSStore | AzureStore, patience: Patience | None = None) -> None:
        self._name = name
        self._store = store
        self._patience = patience or Patience()

    async def check(self) -> None:
        """Raise StoreUnreachable, or StoreRefused, if the bucket cannot be listed."""
        async with self._call("LIST", ""):
            await obstore.list_with_delimiter_async(self._store, ".reachable")

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        async with self._call("PUT", key, sum(map(len, pieces))):
            await obstore.put_async(self._store, key, joined_runs(pieces), use_multipart=False)

    async def put_if_absent(self, key: str, pieces: Sequence[Buffer]) -> None:
        async with self._call("PUT", key, sum(map(len, pieces))):
            await obstore.put_async(self._store, key, joined_runs(pieces), mode="create", use_multipart=False)

    async def get(self, key: str) -> Buffer:
        async with self._call("GET", key):
            result = await obstore.get_async(self._store, key)
        async with self._call("GET", key, int(result.meta["size"])):
            return _owned(memoryview(await result.bytes_async()))

    async def get_range(self, key: str, start: int, end: int) -> Buffer:
        if not 0 <= start < end:
            raise RangeInvalid(f"{key}: {start}..{end} is no range")
        async with self._call("GET", key, end - start):
            data = _owned(memoryview(await obstore.get_range_async(self._store, key, start=start, end=end)))
        if len(data) != end - start:
            # a range beyond the end comes back short too: only the size tells
            if end > (await self.head(key) or 0):
                raise RangeInvalid(f"{key}: asked for {start}..{end}, got {len(data)} bytes")
            raise StoreUnreachable(f"{self._name}: GET {key}: asked for {start}..{end}, got {len(data)} bytes")
        return data

    async def head(self, key: str) -> int | None:
        try:
            async with self._call("HEAD", key):
                return int((await obstore.head_async(self._store, key))["size"])
        except ObjectMissing:
            return None

    async def delete_many(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), _DELETE_CHUNK):
            chunk = list(keys[start : start + _DELETE_CHUNK])
            try:
                async with self._call("DELETE", chunk[0]):
                    await obstore.delete_async(self._store, chunk)
            except ObjectMissing:
                await self._delete_each(chunk)

    async def _delete_each(self, keys: Sequence[str]) -> None:
        """Stores without bulk delete may stop at the first key that is not there."""
        for key in keys:
            try:
                async with self._call("DELETE", key):
                    await obstore.delete_async(self._store, key)
            except ObjectMissing:
                continue

    async def list(self, prefix: str) -> AsyncIterator[ObjectMeta]:
        folder = prefix.rpartition("/")[0]
        chunks = obstore.list(self._store, folder or None, chunk_size=_LIST_CHUNK).__aiter__()
        while True:
            try:
                async with self._call("LIST", prefix):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            for meta in chunk:
                if meta["path"].startswith(prefix):
                    yield ObjectMeta(meta["path"], meta["size"], int(meta["last_modified"].timestamp() * 1000))

    async def close(self) -> None:
        return None

    @asynccontextmanager
    async def _call(self, verb: str, key: str, size: int = 0) -> AsyncIterator[None]:
        """One request that carries `size` bytes: bounded in time, with our errors."""
        clock = asyncio.get_running_loop().time
        began = clock()
        timeout_s = self._patience.timeout_s(size)
        with self._errors(verb, key):
            try:
                async with asyncio.timeout(timeout_s):
                    yield
            except TimeoutError as error:
                self._patience.timed_out(size, timeout_s)
                raise TimeoutError(f"no answer in {timeout_s:.0f} s") from error
        self._patience.done(size, clock() - began)

    @contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except (AlreadyExistsError, PreconditionError) as error:
            raise ObjectExists(f"{key} exists") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StoreRefused(f"{self._name}: {verb} {key} refused: {_reason(error)}") from error
        except (NotFoundError, FileNotFoundError) as error:
            if any(code in str(error) for code in _REFUSALS):
                raise StoreRefused(f"{self._name}: {_reason(error)}") from error
            raise ObjectMissing(f"{key} does not exist") from error
        except InvalidPathError as error:
            raise StoreError(f"not an object key: {key!r}") from error
        except (BaseError, OSError, TimeoutError) as error:
            text = str(error)
            if "416" in text and "Range" in text:
                raise RangeInvalid(f"{key}: {_reason(error)}") from error
            kind = StoreRefused if any(code in text for code in _REFUSALS) else StoreUnreachable
            raise kind(f"{self._name}: {verb} {key} failed: {_reason(error)}") from error


def _owned(view: memoryview) -> memoryview:
    """An answer of the library is a part of what its connection read into: whoever keeps a kilobyte of it in a cache
    would keep all of that. Large ones were put together, and are only themselves."""
    return memoryview(bytes(view)) if len(view) <= COPIED_MAX else view


def _reason(error: BaseException) -> str:
    """One line: the server's own code and message where it sent XML, else the first line."""
    text = str(error).strip()
    code = re.search("<Code>(.*?)</Code>", text)
    if code is not None:
        message = re.search("<Message>(.*?)</Message>", text)
        return code[1] if message is None else f"{code[1]}: {message[1]}"
    lines = text.splitlines()
    return lines[0][:300] if lines else type(error).__name__
