"""Taking an object WAL over: list, seal, read, discard; and opening it under a new epoch.

A seal goes to the first missing slot. The former owner may live and go on meanwhile: if it creates that slot first,
the next one is tried; if it trims so far that the missing slot was only a deleted one, a later slot says so, and the
seal is taken back. Once the seal stands where the log ends, nothing can be acknowledged any more, whatever clocks say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import uuid4

from wal.api import (
    Buffer,
    WalCorrupt,
    WalError,
    WalForeign,
    WalNotRecovered,
    WalOfAnotherEpoch,
    WalRecord,
    WalUnreachable,
)
from wal.object.format import (
    OWNER_KEY,
    Kind,
    SlotHeader,
    decode_header,
    decode_records,
    discarded_key,
    encode_slot,
    parse_key,
    slot_key,
)
from wal.object.log import ObjectWal, ObjectWalSettings
from wal.object.store import SlotMissing, SlotStore, SlotTaken, StoreTrouble

_READ_AHEAD_COUNT = 16
"""Twice as many as a writer has in flight: slots are small, unless the store is slow."""
_KEYS_AT_ONCE = 1000
_ENDS = (Kind.SEAL, Kind.CLOSE)


@dataclass(slots=True)
class _Epoch:
    """What lies in an epoch's folder."""

    sequences: set[int] = field(default_factory=set)
    is_discarded: bool = False


async def open_object_wal(
    store: SlotStore, epoch: int, owner: str | None = None, settings: ObjectWalSettings | None = None
) -> ObjectWal:
    """Begin `epoch` of the log that `store` holds. Closes `store` with the log, or when this fails.

    `owner` (the cluster's id) is written into a log that does not name one. Raises WalForeign if it names another,
    WalNotRecovered, WalUnreachable, WalError if the epoch is not newer than those that are there.
    """
    try:
        await _check_owner(store, owner, claims=True)
        return await _open(store, epoch, settings)
    except StoreTrouble as error:
        await store.close()
        raise WalUnreachable(str(error)) from error
    except BaseException:
        await store.close()
        raise


async def _open(store: SlotStore, epoch: int, settings: ObjectWalSettings | None) -> ObjectWal:
    position = 0
    leftovers: list[str] = []
    for former, found in sorted((await _list(store)).items()):
        if former >= epoch:
            raise WalError(f"the log was opened under epoch {former}, which is not older than {epoch}")
        end = await _end_of(store, former, found)
        if end is None:
            raise WalNotRecovered(f"epoch {former} of the log holds records that were not recovered")
        position = max(position, end.position)
        leftovers += [slot_key(former, sequence) for sequence in sorted(found.sequences) if sequence != end.sequence]
        if end.kind is Kind.CLOSE:
            leftovers.append(slot_key(former, end.sequence))
    writer = uuid4().bytes
    first = SlotHeader(Kind.RECORDS, epoch, 0, position, 0, 0, writer)
    try:
        await store.create(slot_key(epoch, 0), encode_slot(first))
    except SlotTaken:
        raise WalError(f"another process has opened the log under epoch {epoch}") from None
    await _delete(store, leftovers)
    return ObjectWal(store, epoch, position, writer, settings)


async def _end_of(store: SlotStore, epoch: int, found: _Epoch) -> SlotHeader | None:
    """The end of an epoch that is done with (kind CLOSE: its owner left nothing behind), else None."""
    if found.is_discarded:
        return (await _read(store, discarded_key(epoch)))[0]
    last, _ = await _read(store, slot_key(epoch, max(found.sequences)))
    return last if last.kind is Kind.CLOSE and last.needed == last.sequence else None


async def fence_object_wal(
    store: SlotStore, owner: str | None = None, epoch: int | None = None
) -> ObjectRecoverableWal:
    """Seal the log's last epoch. Its owner, if it lives, fails with its next append.

    If that is not `epoch`, it is another owner's, who has done nothing: WalOfAnotherEpoch, and it stays as it is.
    Closes `store` with the result, or when this fails. Raises WalForeign, WalUnreachable, WalCorrupt.
    """
    ahead: _ReadAhead | None = None
    try:
        epochs = await _list_of(store, owner)
        if not epochs:
            raise WalUnreachable("there is no log")
        last = max(epochs)
        if epoch is not None and last != epoch:
            raise WalOfAnotherEpoch(last, epoch)
        ahead = _ReadAhead(store, last)
        needed = 0
        if not epochs[last].is_discarded:
            needed = await _seal(store, last, epochs[last].sequences, ahead)
        return ObjectRecoverableWal(store, ahead, needed, epochs[last].is_discarded)
    except BaseException as error:
        if ahead is not None:
            await ahead.close()
        await store.close()
        if isinstance(error, StoreTrouble):
            raise WalUnreachable(str(error)) from error
        raise


async def _list_of(store: SlotStore, owner: str | None) -> dict[int, _Epoch]:
    """Raises WalForeign if it belongs to somebody else."""
    listing = asyncio.create_task(_list(store))
    try:
        await _check_owner(store, owner, claims=False)
        return await listing
    finally:
        listing.cancel()
        await asyncio.gather(listing, return_exceptions=True)


async def _check_owner(store: SlotStore, owner: str | None, *, claims: bool) -> None:
    if owner is None:
        return
    try:
        if claims:
            await store.create(OWNER_KEY, [owner.encode()])
            return
        named = bytes(await store.read(OWNER_KEY))
    except SlotTaken:
        named = bytes(await store.read(OWNER_KEY))
    except SlotMissing:
        return
    if named != owner.encode():
        raise WalForeign(f"the log belongs to cluster {named.decode(errors='replace')}, not to {owner}")


async def _seal(store: SlotStore, epoch: int, sequences: set[int], ahead: _ReadAhead) -> int:
    """Seal what is listed; returns the first sequence that is needed."""
    missing: set[int] = set()
    while (needed := await _try_to_seal(store, epoch, sequences, missing, ahead)) is None:
        sequences = (await _list(store, epoch))[epoch].sequences
    return needed


async def _try_to_seal(
    store: SlotStore, epoch: int, sequences: set[int], missing: set[int], ahead: _ReadAhead
) -> int | None:
    """None: others wrote meanwhile, the log is to be listed again. `missing`: what was not there in former lists."""
    try:
        highest, _ = await _read(store, slot_key(epoch, max(sequences)))
    except SlotMissing:
        # deleted since it was listed: others are there by now
        return None
    if highest.kind in _ENDS:
        return highest.needed
    end = highest.needed
    while end in sequences:
        end += 1
    if end < highest.unconfirmed:
        # it may have been created while the others were listed
        if end in missing:
            raise WalCorrupt(f"{slot_key(epoch, end)} is missing")
        missing.add(end)
        return None
    # what is there does not change any more
    ahead.ask(range(highest.needed, end))
    seal = SlotHeader(Kind.SEAL, epoch, end, highest.end_position, highest.needed, end, uuid4().bytes)
    try:
        await store.create(slot_key(epoch, end), encode_slot(seal))
    except SlotTaken:
        return None
    needed = await _needed(store, epoch, seal)
    if needed <= end:
        return needed
    await store.delete([slot_key(epoch, end)])
    return None


async def _needed(store: SlotStore, epoch: int, seal: SlotHeader) -> int:
    """What the latest slot says that is needed: the seal, most likely."""
    while True:
        last = max((await _list(store, epoch))[epoch].sequences)
        if last == seal.sequence:
            return seal.needed
        try:
            return (await _read(store, slot_key(epoch, last)))[0].needed
        except SlotMissing:
            continue


class _ReadAhead:
    """Slots of an epoch, a few asked for before they are read. They do not change once they are there."""

    def __init__(self, store: SlotStore, epoch: int) -> None:
        self.epoch = epoch
        self._store = store
        self._asked: dict[int, asyncio.Task[tuple[SlotHeader, Buffer]]] = {}

    def ask(self, sequences: range) -> None:
        for sequence in sequences[:_READ_AHEAD_COUNT]:
            if sequence not in self._asked:
                self._asked[sequence] = asyncio.create_task(_read(self._store, slot_key(self.epoch, sequence)))

    async def read(self, sequence: int) -> tuple[SlotHeader, Buffer]:
        """Raises SlotMissing, WalCorrupt, StoreTrouble."""
        self.ask(range(sequence, sequence + _READ_AHEAD_COUNT))
        return await self._asked.pop(sequence)

    async def close(self) -> None:
        asked = [*self._asked.values()]
        self._asked.clear()
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


class ObjectRecoverableWal:
    """See `wal.api.RecoverableWal`."""

    def __init__(self, store: SlotStore, ahead: _ReadAhead, needed: int, is_discarded: bool) -> None:
        self._store = store
        self._ahead = ahead
        self._epoch = ahead.epoch
        self._needed = needed
        self._is_discarded = is_discarded
        self._end: SlotHeader | None = None
        """What ends the log, once it was read to there."""

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def owner_is_out(self) -> bool:
        return True

    async def records(self) -> AsyncIterator[list[WalRecord]]:
        if self._is_discarded:
            return
        try:
            async for header, slot in self._slots():
                if header.record_count:
                    yield decode_records(header, slot)
        except StoreTrouble as error:
            raise WalUnreachable(str(error)) from error

    async def _slots(self) -> AsyncIterator[tuple[SlotHeader, Buffer]]:
        """From the first that is needed up to the one that ends the log."""
        sequence = self._needed
        try:
            while True:
                try:
                    header, slot = await self._ahead.read(sequence)
                except SlotMissing:
                    raise WalCorrupt(f"{slot_key(self._epoch, sequence)} is missing") from None
                if header.kind in _ENDS:
                    self._end = header
                    return
                yield header, slot
                sequence += 1
        finally:
            await self._ahead.close()

    async def discard(self) -> None:
        if self._is_discarded:
            return
        try:
            try:
                end = await self._find_end()
            except WalCorrupt:
                if not (await _list(self._store, self._epoch))[self._epoch].is_discarded:
                    raise
                # by somebody else who recovered it too, and deletes it
                self._is_discarded = True
                return
            sequence = end.sequence
            mark = SlotHeader(Kind.DISCARDED, self._epoch, sequence, end.position, sequence, sequence, uuid4().bytes)
            with suppress(SlotTaken):
                # else somebody recovered it too
                await self._store.create(discarded_key(self._epoch), encode_slot(mark))
            self._is_discarded = True
            sequences = (await _list(self._store, self._epoch))[self._epoch].sequences
            await _delete(self._store, [slot_key(self._epoch, each) for each in sorted(sequences - {sequence})])
        except StoreTrouble as error:
            raise WalUnreachable(str(error)) from error

    async def _find_end(self) -> SlotHeader:
        while self._end is None:
            async for _ in self._slots():
                pass
        return self._end

    async def close(self) -> None:
        await self._ahead.close()
        await self._store.close()


async def _list(store: SlotStore, epoch: int | None = None) -> dict[int, _Epoch]:
    epochs: dict[int, _Epoch] = {}
    async for key in store.keys("" if epoch is None else f"{epoch:016x}/"):
        parsed = parse_key(key)
        if parsed is None:
            continue
        found = epochs.setdefault(parsed[0], _Epoch())
        if parsed[1] is None:
            found.is_discarded = True
        else:
            found.sequences.add(parsed[1])
    return epochs


async def _read(store: SlotStore, key: str) -> tuple[SlotHeader, Buffer]:
    slot = await store.read(key)
    return decode_header(key, slot), slot


async def _delete(store: SlotStore, keys: list[str]) -> None:
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        await store.delete(keys[start : start + _KEYS_AT_ONCE])
