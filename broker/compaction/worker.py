"""Passes run in a process of their own, at low priority: no record is looked at on the event loop, or in its process.

`CleaningProcess` is this side. The other is `main` below: it answers calls to its one `Cleaning`, in order. Both talk
through pipes: a length, then a pickle. It is started for the first pass and ended when there has been none for a
while; it ends by itself when its pipe does, as it does when the broker is killed.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, cast

from broker.compaction.cleaning import Batch, Cleaning, CleaningInput, Filtered
from protocol.errors import ErrorCode, InvalidBatch

NICENESS = 10
IDLE_S = 60.0
"""How long the process is kept without work."""
_SIZE = struct.Struct(">Q")
_TAKES_BATCHES = ("index", "filter")
_COMMAND = (sys.executable, "-m", "broker.compaction.worker")


class WorkerDied(Exception):
    """The process is gone, and the pass with it."""


class CleaningProcess:
    """One pass at a time: `begin`, then `index` and `filter` as `Cleaning` has them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cleaning")
        self._idle: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    async def begin(self, given: CleaningInput) -> None:
        if self._idle is not None:
            self._idle.cancel()
        await self._call("begin", given)

    async def index(self, batches: Sequence[Batch]) -> bool:
        """Raises WorkerDied, InvalidBatch."""
        return bool(await self._call("index", batches))

    async def begin_filtering(self) -> int:
        return int(await self._call("begin_filtering"))

    async def filter(self, batches: Sequence[Batch]) -> Filtered:
        found = await self._call("filter", batches)
        assert isinstance(found, Filtered)
        return found

    async def seal(self) -> Batch | None:
        found: Batch | None = await self._call("seal")
        return found

    async def counts(self) -> tuple[int, int, int | None]:
        """Records given to `filter`, records that stayed, the earliest delete horizon among these."""
        given, kept, horizon_ms = await self._call("counts")
        return given, kept, horizon_ms

    def rest(self) -> None:
        """The pass is over: after a while without another the process ends."""
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self.stop)

    def stop(self) -> None:
        """End the process now, whatever it is doing."""
        if self._idle is not None:
            self._idle.cancel()
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            self._thread.submit(_bury, process)

    def close(self) -> None:
        self.stop()
        self._thread.shutdown(wait=False)

    async def _call(self, name: str, *args: object) -> Any:
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._thread, self._exchange, name, args)
        except (OSError, EOFError, ValueError) as error:
            self.stop()
            raise WorkerDied(f"the process for compaction by key ended: {error!r}") from error
        except asyncio.CancelledError:
            self.stop()
            raise
        refused, value = result
        if refused is not None:
            raise InvalidBatch(ErrorCode(refused), value)
        return value

    def _exchange(self, name: str, args: tuple[object, ...]) -> Any:
        process = self._process
        if process is None:
            process = self._process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        if name in _TAKES_BATCHES:
            args = (_owned(cast("Sequence[Batch]", args[0])),)
        _write(process.stdin, (name, args))
        return _read(process.stdout)


def _owned(batches: Sequence[Batch]) -> list[Batch]:
    """Buffers that can be pickled."""
    return [(base, count, timestamp, bytes(data)) for base, count, timestamp, data in batches]


def _bury(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _write(pipe: IO[bytes], value: object) -> None:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    pipe.write(_SIZE.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> Any:
    head = pipe.read(_SIZE.size)
    if len(head) < _SIZE.size:
        raise EOFError("end of pipe")
    (size,) = _SIZE.unpack(head)
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError("end of pipe")
    return pickle.loads(data)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer calls until the pipe ends."""
    cleaning: Cleaning | None = None
    while True:
        try:
            name, args = _read(requests)
        except EOFError:
            return
        refused: int | None = None
        answer: object
        try:
            if name == "begin":
                cleaning = Cleaning(*args)
                answer = None
            elif name == "counts":
                assert cleaning is not None
                answer = cleaning.record_count, cleaning.kept_count, cleaning.next_horizon_ms
            else:
                answer = getattr(cleaning, name)(*args)
        except InvalidBatch as error:
            refused, answer = int(error.error_code), error.message
        _write(answers, (refused, answer))


def main() -> None:
    os.nice(NICENESS)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    sys.stdout = sys.stderr
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
